"""What each vendor's API answers to a message that it takes, for the stand-in of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VendorAnswer:
    """A yes in the vendor's form; `%d` in it is replaced by the number of the call."""

    vendor: str
    status: int
    body: bytes
    content_type: str = "application/json"

    def rendered(self, number: int) -> bytes:
        """The whole answer, as it goes over the wire."""
        body = self.body % number if b"%d" in self.body else self.body
        head = f"HTTP/1.1 {self.status} {_WORDS[self.status]}\r\nContent-Type: {self.content_type}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_WORDS = {200: "OK", 201: "Created"}

#: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
_SES = VendorAnswer("ses", 200, b'{"MessageId":"0100018a-sink-%d"}')
#: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
_SNS = VendorAnswer(
    "sns",
    200,
    b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult>'
    b"<MessageId>00000000-0000-4000-8000-%d</MessageId></PublishResult><ResponseMetadata>"
    b"<RequestId>f187a3c1-376f-11df-8963-01868b7c937a</RequestId></ResponseMetadata></PublishResponse>",
    "text/xml",
)
#: https://www.twilio.com/docs/messaging/api/message-resource#create-a-message-resource
_TWILIO = VendorAnswer(
    "twilio",
    201,
    b'{"account_sid":"AC00000000000000000000000000000000","api_version":"2010-04-01","body":"sink","date_created":'
    b'"Mon, 23 Nov 2026 12:00:00 +0000","direction":"outbound-api","error_code":null,"error_message":null,"from":'
    b'"+15005550006","num_media":"0","num_segments":"1","price":null,"sid":"SM%032d","status":"queued",'
    b'"to":"+4915112345678","uri":"/2010-04-01/Accounts/AC/Messages/SM.json"}',
)
#: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
_FCM = VendorAnswer("fcm", 200, b'{"name":"projects/sink/messages/0:%d"}')
#: https://developers.google.com/identity/protocols/oauth2/service-account
TOKEN = VendorAnswer("google", 200, b'{"access_token":"sink","expires_in":3599,"token_type":"Bearer"}')


def answer_of(path: bytes) -> VendorAnswer | None:
    """Of whom this path is, SendGrid excepted; None for nobody's."""
    if path == b"/v2/email/outbound-emails":
        return _SES
    if path == b"/":
        return _SNS
    if path.endswith(b"/Messages.json"):
        return _TWILIO
    return _FCM if path.endswith(b"/messages:send") else None
