"""Secrets by reference: a job's options hold the location of a secret, never the secret."""

import os
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import OptionError

USER_KEY_VARIABLE = "CLICKSTREAM_USER_KEY_SECRET"
_DEVELOPMENT_SECRET = "clickstream-development"  # noqa: S105  (said to be no secret wherever it is used)


@dataclass(frozen=True)
class UserKeySecret:
    """The source of the secret for user_key's keyed hash: a file, the environment, or else the development default.

    Attributes:
        file: A file whose content, without surrounding white space, is the secret; None for the environment.
    """

    file: Path | None = None

    @property
    def is_default(self) -> bool:
        """Whether no secret is set, so that anyone can compute the keys."""
        return self.file is None and not os.environ.get(USER_KEY_VARIABLE)

    def read(self) -> str:
        """The secret.

        Raises:
            OptionError: The file cannot be read or is empty.
        """
        if self.file is None:
            return os.environ.get(USER_KEY_VARIABLE) or _DEVELOPMENT_SECRET
        try:
            secret = self.file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the user key secret from {self.file}: {error}") from error
        if not secret:
            raise OptionError(f"the user key secret in {self.file} is empty")
        return secret
