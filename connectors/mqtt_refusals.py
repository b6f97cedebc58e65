"""What a broker's reason codes mean for us: a setting that is wrong, or a broker to come back to.

Codes: MQTT 5.0 section 2.4; paho translates those of 3.1.1 into them.
"""

from __future__ import annotations

import ssl
from typing import Any

from headrace.connectors.mqtt_config import MqttConfig
from headrace.schemas.errors import ConfigError, HeadraceError, RateLimited, SourceError

_RATE_EXCEEDED = 0x9F
_TAKEN_OVER = 0x8E
#: Code → what would be right. All others may pass by themselves.
_WRONG = {
    0x84: "set `version` to one that the broker speaks",
    0x85: "use another `client_id`",
    0x86: "check `username` and `password`",
    0x87: "the account may not do this: check its rights at the broker, or `username`",
    0x8A: "the broker has banned this client",
    0x8C: "the broker asks for another way to authenticate",
    0x8F: "check the filter in `topics`",
    0x9C: "set `url` to the server that the broker names",
    0x9D: "set `url` to the server that the broker names",
    0x9E: "the broker has no shared subscriptions: take $share/GROUP/ out of `topics`",
    0xA1: "the broker has no subscription identifiers",
    0xA2: "the broker has no wildcard subscriptions: name whole topics",
}


def unreachable(config: MqttConfig, cause: Exception) -> HeadraceError:
    """The error of a connection that did not come about."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = f"{config.url}: the broker's certificate is not trusted ({cause.verify_message})"
        return ConfigError(f"{said}: name its authority in tls_ca")
    return SourceError(f"{config.url} cannot be reached: {cause}")


def refused_connection(config: MqttConfig, code: Any) -> HeadraceError:
    """The error of a CONNACK that says no."""
    return _error(config, f"{config.url} refuses the connection of `{config.client_id}`", code)


def refused_filter(config: MqttConfig, topic: str, code: Any) -> HeadraceError:
    """The error of a SUBACK that says no, or grants less than was asked."""
    if not code.is_failure:
        return ConfigError(
            f"{config.url} grants QoS {code.value} for `{topic}`, {config.qos} was asked: set `qos: {code.value}`"
            + (" and accept that messages can be lost" if code.value == 0 else "")
        )
    said = f"{config.url} refuses the subscription to `{topic}`"
    if config.version != "5":  # 3.1.1 has one code for all refusals
        return ConfigError(f"{said}: check `topics`, and what the account may read")
    return _error(config, said, code)


def ended(config: MqttConfig, code: Any, *, keepalive: bool = False) -> HeadraceError:
    """The error of a connection that ended; `code` of the broker's DISCONNECT if it sent one."""
    if code is not None and code.value == _TAKEN_OVER:
        return SourceError(
            f"{config.url}: another client connected as `{config.client_id}` and took the session over; each reader"
            " needs a client_id of its own"
        )
    if code is not None:
        return _error(config, f"{config.url} ended the connection", code)
    if keepalive:
        return SourceError(f"{config.url} was silent for {config.keepalive_s} s")
    # 3.1.1 cannot say why, and Mosquitto does not in MQTT 5 either when a session is taken over.
    return SourceError(
        f"{config.url} closed the connection without a reason; if this repeats, another client may be using client_id"
        f" `{config.client_id}`"
    )


def _error(config: MqttConfig, said: str, code: Any) -> HeadraceError:
    said = f"{said}: {str(code).lower()} (0x{code.value:02x})"
    if code.value == _RATE_EXCEEDED:
        return RateLimited(said, retry_after=10)
    if code.value in _WRONG:
        return ConfigError(f"{said}: {_WRONG[code.value]}")
    return SourceError(said)
