"""What `-o KEY=VALUE` and `--search-country` take: their callbacks."""

from __future__ import annotations

import click

from ..json_object import JsonObject, can_be_sent, strict_json

# Fields of a create call that the command sets itself, and what sets them.
_TAKEN = {
    "model": "--model",
    "input": "PROMPT",
    "messages": "PROMPT",
    "instructions": "--instructions",
    "tools": "--web-search and --auto-tool-call",
    "stream": "--stream",
    "background": "--background",
    "previous_response_id": "--previous-response-id",
    "timeout": "--timeout",
    "num_retries": "the rule that nothing is paid for twice",
}

# ISO 3166-1 alpha-2.
_ISO = """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY
    BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK
    FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR
    IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK
    ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM
    PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF
    TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
"""
_COUNTRIES = frozenset(_ISO.split())


def parse_fields(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> JsonObject:
    """The fields of `-o KEY=VALUE`: dotted keys nest, a value is JSON or else text, the last of two wins."""
    fields: JsonObject = {}
    for one in given:
        key, equals, text = one.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path) or not key.isprintable():
            raise click.BadParameter(f"{one!r} is not KEY=VALUE")
        if path[0] in _TAKEN or path[0].startswith("extra_"):
            raise click.BadParameter(f"{path[0]} is set by {_TAKEN.get(path[0], 'the SDK')}, not by -o")
        inner = fields
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise click.BadParameter(f"{key}: {name} is given a value already, so nothing can be put inside it")
        inner[path[-1]] = _value(key, text)
    return fields


def _value(key: str, text: str) -> object:
    try:
        value = strict_json(text)
    except ValueError:
        value = text  # NaN and Infinity too
    if not can_be_sent(value):
        raise click.BadParameter(f"{key}: the value cannot be sent (a number without end, or no valid UTF-8)")
    return value


def parse_country(_ctx: click.Context, _param: click.Parameter, given: str | None) -> str | None:
    """A country by its ISO 3166-1 code, in capitals."""
    country = None if given is None else given.strip().upper()
    if country is not None and country not in _COUNTRIES:
        raise click.BadParameter(f"{given!r} is not an ISO country code of two letters, such as KR")
    return country
