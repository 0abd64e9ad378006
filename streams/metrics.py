"""What the workers count. Labels are few and never name a person."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)

RECORDS = Counter("comms_lane_records_total", "Records a lane has finished with.", ["lane"])
BATCH_SECONDS = Histogram(
    "comms_lane_batch_seconds", "Time a lane took for a part of a batch.", ["lane", "part"], buckets=_SECONDS
)
QUEUE_AGE = Histogram(
    "comms_queue_age_seconds", "Age of a record when its lane took it up.", ["lane"], buckets=_SECONDS
)
LAG = Gauge("comms_lane_lag_records", "Records between a lane's commits and the end of its topic.", ["lane"])
#: The next three are shown by the process that sampled last, and by no other.
QUEUE_LAG = Gauge("comms_queue_lag_records", "Records, or rows, that wait, in the whole cluster.", ["lane"])
QUEUE_OLDEST = Gauge("comms_queue_oldest_seconds", "Time for which the head of a queue has waited.", ["lane"])
QUEUE_MEMBERS = Gauge("comms_queue_members", "Processes that read a queue.", ["lane"])
HOLDS = Counter("comms_lane_holds_total", "Times a lane waited for a server that was away.", ["lane"])
HOLDING = Gauge("comms_lane_holding", "1 while a lane waits for a server, its provider or its pace.", ["lane"])

REQUESTS = Counter("comms_requests_total", "Requests a lane has decided, by result.", ["priority", "result"])
ATTEMPTS = Counter("comms_deliveries_total", "Attempts by outcome.", ["channel", "provider", "outcome"])
RETRIES = Counter("comms_retries_total", "Attempts that will be made again.", ["channel"])
HELD_BACK = Counter(
    "comms_deliveries_held_back_total", "Times that bulk of a paused category was put off.", ["channel"]
)
BOUNCE_RATE = Gauge(
    "comms_category_bounce_rate",
    "Share of a category's e-mails that came back, where enough did to be looked at.",
    ["category"],
)
CATEGORIES_PAUSED = Gauge("comms_category_paused", "1 for a category whose bulk is held back.", ["category"])
REPLAYED = Counter("comms_dead_letters_replayed_total", "Dead letters that were sent back.", ["topic"])
DEAD = Counter("comms_dead_letters_total", "Records that went to the dead letters.", ["stage", "error_class"])
LIMIT_TOKENS = Counter(
    "comms_limit_tokens_total", "Calls that limits granted or withheld.", ["channel", "provider", "result"]
)
LIMITS_LOCAL = Gauge("comms_limits_local", "1 while Redis is away and this process limits itself to half its share.")
PROVIDER_SECONDS = Histogram(
    "comms_provider_seconds", "Time of one provider call.", ["channel", "provider"], buckets=_SECONDS
)
PROVIDER_STATE = Gauge(
    "comms_provider_state", "1 for the state a provider is in, 0 for the others.", ["channel", "provider", "state"]
)
FAIL_OVERS = Counter(
    "comms_provider_fail_overs_total",
    "Calls that went on to the next provider of the chain.",
    ["channel", "provider", "to"],
)
PROVIDER_ALERTS = Counter(
    "comms_provider_alerts_total", "Refusals that an operator has to mend, while others go on.", ["provider", "reason"]
)
PROVIDER_EVENTS = Counter(
    "comms_provider_events_total",
    "What providers told, once each, by what it came to: changed, kept, waiting, or repeated.",
    ["provider", "kind", "result"],
)
PROVIDER_EVENTS_GIVEN_UP = Counter(
    "comms_provider_events_given_up_total", "Events that matched no delivery within a day.", ["provider"]
)
DELAY_LATENESS = Histogram(
    "comms_delay_lateness_seconds", "How late a delayed record went back to its topic.", buckets=_SECONDS
)
PEOPLE_READS = Counter("comms_people_reads_total", "People that lanes asked for, kept (hit) or not (miss).", ["result"])
CLOCK_STEP = Gauge("comms_clock_step_seconds", "How far the database's clock is ahead of the one this process trusts.")
#: Shown by API processes.
CALLBACK_ODD = Counter(
    "comms_callback_odd_elements_total", "Elements of providers' callbacks that could not be read.", ["provider"]
)
