"""The payer of a call: tags, end user and session, which LiteLLM logs with the call besides its key.

Every call sends them in headers of LiteLLM, which does not forward them (measured with 1.106 and 1.108). A poll of a
background response needs them too, because LiteLLM bills the response by its poll.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .config import ConfigurationError, is_visible_ascii, setting

TAGS_HEADER = "x-litellm-tags"
END_USER_HEADER = "x-litellm-end-user-id"
SESSION_HEADER = "x-litellm-session-id"

MOST_TAGS = 20
LONGEST_NAME = 200  # characters of a tag, an end user, a session


class Payer(NamedTuple):
    """The tags, end user and session of calls; all empty by default."""

    tags: tuple[str, ...] = ()
    end_user: str = ""
    session_id: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The payer as LiteLLM's headers."""
        named = {TAGS_HEADER: ",".join(self.tags), END_USER_HEADER: self.end_user, SESSION_HEADER: self.session_id}
        return {name: value for name, value in named.items() if value}

    @classmethod
    def of(cls, headers: object) -> Payer:
        """Return the payer in headers, or in the stored JSON of headers.

        Raises:
            ConfigurationError: `resolve_payer` would refuse one of the values.
        """
        # From a client, or from a row that another version wrote: any field may be missing or of another type.
        given: Mapping[str, Any] = headers if isinstance(headers, Mapping) else {}
        values = {name: given.get(name) or "" for name in (TAGS_HEADER, END_USER_HEADER, SESSION_HEADER)}
        if not all(isinstance(value, str) for value in values.values()):
            raise ConfigurationError("tags, end user and session must be texts")
        return cls(
            _tags(values[TAGS_HEADER].split(","), TAGS_HEADER),
            _name(values[END_USER_HEADER], END_USER_HEADER),
            _name(values[SESSION_HEADER], SESSION_HEADER),
        )


NOBODY = Payer()


def resolve_payer(
    tags: Iterable[str] | None = None,
    end_user: str | None = None,
    session_id: str | None = None,
    env: Mapping[str, str] = os.environ,
) -> Payer:
    """Return the payer in the arguments, otherwise in `LITELLM_TAGS` (separated by commas) and `LITELLM_END_USER`.

    Raises:
        ConfigurationError: there are more than 20 tags, a tag has a comma, or a value is longer than 200 characters or
            has others than visible ASCII.
    """
    if tags is None:
        checked = _tags(setting("LITELLM_TAGS", env).split(","), "LITELLM_TAGS")
    else:
        checked = _tags([tags] if isinstance(tags, str) else tags, "a tag")
    name = "LITELLM_END_USER" if end_user is None else "end_user"
    user = setting("LITELLM_END_USER", env) if end_user is None else end_user
    return Payer(checked, _name(user, name), _name(session_id or "", "session_id"))


def _tags(given: Iterable[str], name: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(tag for one in given if (tag := _name(one, name))))
    # LiteLLM splits the header at commas, and would bill two tags instead.
    if any("," in tag for tag in tags):
        raise ConfigurationError(f"{name} holds a comma")
    if len(tags) > MOST_TAGS:
        raise ConfigurationError(f"there are more than {MOST_TAGS} tags")
    return tags


def _name(text: str, name: str) -> str:
    text = text.strip()
    if len(text) > LONGEST_NAME or not is_visible_ascii(text):
        raise ConfigurationError(f"{name} must be at most {LONGEST_NAME} visible ASCII characters, without spaces")
    return text
