# SPDX-License-Identifier: Apache-2.0
"""Exclusions as they are handed on: by their fields, because a peer's NQN can have what separates fields in a list."""

from collections.abc import Mapping

from discoverd import exclusions
from discoverd.config.errors import quote
from discoverd.tid import DISCOVERY_NQN, TidError, check_peer_nqn

Fields = dict[str, str]


class ExclusionError(ValueError):
    """What cannot be an exclusion; the text says why, and what to do."""


def written(fields: Mapping[str, str]) -> str:
    """Return an exclusion as it stands in a list. Raises ExclusionError where it would exclude anything else there."""
    text = ";".join(f"{key}={value}" for key, value in fields.items())
    understood, sentence = exclusions.understand(text)
    if sentence:
        raise ExclusionError(f"{quote(text)}: {sentence}")
    if understood != fields:
        raise ExclusionError(f"{quote(text)} cannot be an exclusion; exclude its address instead: traddr=ADDRESS")
    return text


def of_word(word: str) -> Fields:
    """Return the fields of an exclusion as it stands in a list, or of an NQN's. Raises ExclusionError."""
    if word.startswith("nqn.") and word != DISCOVERY_NQN:
        try:
            fields = {"nqn": check_peer_nqn(word)}
        except TidError as error:
            raise ExclusionError(f"{error}; give it as the target spells it") from None
    else:
        fields, sentence = exclusions.understand(word)
        if sentence or not fields:
            raise ExclusionError(f"{quote(word)}: {sentence}")
    written(fields)
    return fields


def of_target(transport: str, address: str, service: str, nqn: str, interface: str) -> Fields:
    """Return the fields of an exclusion of the controller at a target, '' for what nothing tells.

    Raises ExclusionError where too little is known of it, because what is not said excludes any.
    """
    if not nqn or not (address or transport == "loop"):
        raise ExclusionError(
            "nothing tells any more what target this controller is at; give its NQN, or an exclusion such as "
            "transport=tcp;traddr=ADDRESS"
        )
    found = {"transport": transport, "traddr": address, "trsvcid": service, "nqn": nqn, "host-iface": interface}
    fields = {key: value for key, value in found.items() if value}
    written(fields)
    return fields
