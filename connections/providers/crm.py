"""What vendors that keep persons have in common: who somebody is, found by an address or an id, then written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import phonenumbers

from connections.providers.base import MappingField
from connections.providers.fields import FieldProblem
from connections.providers.verdicts import retry

FULL_NAME = (
    "payload.name || (payload.first_name || payload.last_name)"
    " && join(' ', [payload.first_name, payload.last_name][?@]) || payload.full_name"
)
"""The default source of a name in one piece, in JMESPath."""
FIRST_NAME = "payload.first_name || ([payload][?!last_name].name | [0])"
"""The default source of a first name: the whole name, where an event has it in one piece only."""
MOVED = retry("The contact was merged or deleted just now; it is looked up again.", "contact_moved")


def person(
    email: str, first: str, last: str, company: str = "", phone: str = "", *, required: bool = True
) -> tuple[MappingField, ...]:
    """The fields of a person, by the vendor's names for them; `required` is the address."""
    known = (
        MappingField(email, "Email", required=required, source="payload.email"),
        MappingField(first, "First name", source=FIRST_NAME),
        MappingField(last, "Last name", source="payload.last_name"),
        MappingField(company, "Company name", source="payload.company"),
        MappingField(phone, "Phone number", source="payload.phone"),
    )
    return tuple(field for field in known if field.key)


def host_problems(config: Mapping[str, Any], key: str, pattern: re.Pattern[str], words: str) -> Sequence[FieldProblem]:
    """Whether the account's own URL lies with the vendor: the credentials are sent there."""
    url = config.get(key)
    is_own = url is None or (isinstance(url, str) and pattern.fullmatch(url))
    return () if is_own else [FieldProblem(f"/config/{key}", words, "host")]


def is_country(code: str) -> bool:
    """Whether this is a country's code of two letters (ISO 3166-1)."""
    return code in phonenumbers.SUPPORTED_REGIONS


def to_e164(text: str, country: str) -> str:
    """`+15551234567`. A number without a + is read as one of the country, which is never guessed. Raises ValueError,
    which says why and repeats nothing of it."""
    if country and not is_country(country):
        raise ValueError("its country is not a code of two letters, such as US")
    try:
        number = phonenumbers.parse(text, country or None)
    except phonenumbers.NumberParseException as error:
        if error.error_type == phonenumbers.NumberParseException.INVALID_COUNTRY_CODE and not country:
            raise ValueError("it names no country: write it as +15551234567, or set phone_country") from None
        raise ValueError("it is not a telephone number") from None
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise ValueError("it has too few or too many digits for a number of its country")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
