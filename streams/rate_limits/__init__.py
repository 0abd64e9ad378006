"""Limits: shared token buckets for channels and providers, slots for people, all in Redis (docs/howto/rate-limits.md).

`service` answers the lanes, `scripts` speaks with Redis, `local` counts alone while Redis is away, `upkeep` keeps the
definitions fresh.
"""

from streams.rate_limits.opening import limits_redis, open_rate_limits
from streams.rate_limits.scripts import LimitScripts, Reservation, State
from streams.rate_limits.service import Grant, RateLimits

__all__ = ["Grant", "LimitScripts", "RateLimits", "Reservation", "State", "limits_redis", "open_rate_limits"]
