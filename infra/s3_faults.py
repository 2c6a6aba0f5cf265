"""What S3 refuses and why, told so that a person knows what to do.

The same refusal reaches us in three spellings: boto3's codes, pyarrow's upper-case names and the
nested text of delta-rs.
"""

import re

from infra.errors import DataError, ServiceError

_ADVICE = (  # (what a fault says, lower case without blanks and underscores; what it means)
    (
        ("requesttimetooskewed", "differencebetweentherequesttime", "requestinthefuture"),
        "the clock of this machine differs too much from S3's; set it (NTP) and run again",
    ),
    (
        ("expiredtoken", "tokenhasexpired", "requestexpired", "tokenrefreshrequired"),
        "the credentials have expired; renew them (`aws sso login`, AWS_SESSION_TOKEN) and run "
        "again: what is committed is kept",
    ),
    (
        ("invalidaccesskeyid", "signaturedoesnotmatch", "invalidtoken", "invalidclienttokenid"),
        "S3 does not know these credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_SESSION_TOKEN, or AWS_PROFILE",
    ),
    (
        ("unabletolocatecredentials", "partialcredentials", "configprofile"),
        "no credentials are found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (
        ("nosuchbucket", "specifiedbucketdoesnotexist"),
        "there is no such bucket; check the address, or make the bucket first",
    ),
    (
        ("permanentredirect", "authorizationheadermalformed", "illegallocationconstraint"),
        "the bucket lies in another region; set AWS_REGION to it",
    ),
    (
        ("nospaceleft", "quotaexceeded", "insufficientstorage", "xminiostoragefull"),
        "the store is full; free space there",
    ),
    (
        ("accessdenied", "forbidden", "methodnotallowed", "readonly", "necessaryprivileges"),
        "these credentials may not do that: a target to be written is read-only "
        "for them; ask for the right, or choose another address",
    ),
    (
        ("slowdown", "serviceunavailable", "internalerror", "toomanyrequests"),
        "S3 is overloaded or has a fault of its own; run again, and if it stays look at the "
        "server: it may be full or read-only",
    ),
    (
        ("connect", "timeout", "timedout", "totalbytesexpected", "errorsendingrequest"),
        "S3 does not answer; check AWS_ENDPOINT_URL and the network",
    ),
)
_STATUS = {"403": "accessdenied", "503": "serviceunavailable"}  # where HEAD says no more


class ChangedError(DataError):
    """The object is no longer the one that was listed."""


def explain(uri: str, fault: BaseException) -> ServiceError:
    """Return our error for a fault of boto3, pyarrow or delta-rs at an S3 address."""
    response = getattr(fault, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    told = " ".join(re.sub(r"\x1b\[\d*m|↳|<[^>]*>", " ", str(fault)).split())
    said = re.sub(r"[\s_]+", "", f"{_STATUS.get(code, code)} {told}".lower())
    for needles, advice in _ADVICE:
        if any(needle in said for needle in needles):
            meaning, _, step = advice.partition("; ")
            return ServiceError(f"{uri}: {meaning} ({told}); {step}")
    return ServiceError(f"{uri}: S3 refused the request ({told}); check the address and the rights")
