"""Telephone numbers as vendors want them that take E.164 only. A country is never guessed."""

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, ValidationResult


class NotE164(ValueError):  # noqa: N818 - named by what is wrong
    """A number cannot be written as E.164. `str()` says why, and repeats nothing of it."""


def is_country(code: str) -> bool:
    """Whether this is a country's code of two letters (ISO 3166-1)."""
    return code in phonenumbers.SUPPORTED_REGIONS


def to_e164(text: str, country: str = "") -> str:
    """`+15551234567`. A number without a + is read as one of the country. Raises NotE164."""
    if country and not is_country(country):
        raise NotE164("its country is not a code of two letters, such as US")
    try:
        number = phonenumbers.parse(text, country or None)
    except NumberParseException as error:
        if error.error_type == NumberParseException.INVALID_COUNTRY_CODE and not country:
            raise NotE164("it names no country: write it as +15551234567, or set phone_country") from None
        raise NotE164("it is not a telephone number") from None
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        raise NotE164("it has too few or too many digits for a number of its country")
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)
