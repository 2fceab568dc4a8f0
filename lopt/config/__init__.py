"""A run's configuration: what a suite file and the command line say, checked, frozen.

A value comes from the dataclass default, then from the suite file, then from overrides
(`--set` and flags); the later wins. Every key, type and range is checked here, with the
standard library alone, so that a typo is found before jax is imported. What is *not*
checked here: the options of factories (an optimizer's, an estimator's, a family's),
whose signatures are their only home.
"""

from lopt.config.plain import from_dict as from_dict
from lopt.config.plain import to_dict as to_dict
from lopt.config.released import locate as locate
from lopt.config.released import released as released
from lopt.config.released import released_names as released_names
from lopt.config.rules import BrokenRule as BrokenRule
from lopt.config.schema import AugmentConfig as AugmentConfig
from lopt.config.schema import ComponentConfig as ComponentConfig
from lopt.config.schema import OuterOptimizerConfig as OuterOptimizerConfig
from lopt.config.schema import RunConfig as RunConfig
from lopt.config.schema import SelectionConfig as SelectionConfig
from lopt.config.schema import TaskConfig as TaskConfig
from lopt.config.schema import UnrollConfig as UnrollConfig
from lopt.config.start import PretrainConfig as PretrainConfig
from lopt.config.start import StartConfig as StartConfig
from lopt.config.suite import check_trust as check_trust
from lopt.config.suite import is_data_path as is_data_path
from lopt.config.suite import load_suite as load_suite
from lopt.config.suite import parse_overrides as parse_overrides
from lopt.config.suite import python_files as python_files
