"""Errors a user can mend.

Every one of them carries one sentence: what is wrong, where (file, line or field), what to do.
The command line prints that sentence without a traceback and exits with ``exit_code``.
What only a bug can cause stays an ordinary exception with its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Base of all errors that the person at the keyboard can mend."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration field is unknown, ill-typed or impossible."""


class LayoutError(ConfigError):
    """The parallel layout does not fit the machine, the model or the engine."""


class DataError(UserError):
    """An input file, record or index is not what it should be."""


class TokenizerError(UserError):
    """A tokenizer is missing, incomplete, or not the one that a model was made with."""


class CheckpointError(UserError):
    """A checkpoint is missing, half written, altered, or made for something else."""


class ModelFolderError(UserError):
    """A Hugging Face folder has missing, extra or misshapen parts."""


class MissingDependencyError(UserError):
    """An optional package is needed and absent; the message says how to install it."""


class DifferenceFoundError(UserError):
    """A check that was asked for ran and found a difference."""

    exit_code = 1


class StoppedError(UserError):
    """What was asked for was saved and stopped before its end; running it again goes on."""

    exit_code = 75  # exit_codes.AGAIN
