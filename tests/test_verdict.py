"""What an HTTP answer to a request for bytes means: the rows of the fault table that are decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_daemon.core.errors import AskHuman, ResolveAgain, Trouble, TryAgain, TryLater
from qwen_daemon.core.verdict import Answer, Asked, Follow, TakeBody, judge
from tests.fakes.model_folder import COMMIT

SIZE = 1000
SHA = "a" * 64

ASKED = Asked(start=100, end=200, size_bytes=SIZE, etag=SHA, commit=COMMIT)
GOOD_RANGE = {"content-range": "bytes 100-199/1000"}


def of_cdn(status: int, **headers: str) -> Answer:
    return Answer(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, from_hub=False)


def of_hub(status: int, **headers: str) -> Answer:
    return replace(of_cdn(status, **headers), from_hub=True)


@pytest.mark.fault(
    "H2", "H3", "H4", "H9", "H10", "H12", "H14", "H17", "H18", "H19", "H20", "H21", "H22", "H23", "H30", "H34", "H35"
)
@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        # H2, H3: wrong start, overlap, wrong total
        (of_cdn(206, content_range="bytes 99-199/1000"), TryAgain, "E_BAD_RANGE"),
        (of_cdn(206, content_range="bytes 100-200/1000"), TryAgain, "E_BAD_RANGE"),
        (of_cdn(206, content_range="bytes 100-99/1000"), TryAgain, "E_BAD_RANGE"),
        (of_cdn(206, content_range="bytes 100-199/1001"), TryAgain, "E_CONTENT_CHANGED"),
        (of_cdn(206), TryAgain, "E_BAD_RANGE"),
        # H4, H9: multipart, content coding
        (of_cdn(206, content_type="multipart/byteranges; boundary=x"), TryAgain, "E_BAD_RANGE"),
        (of_cdn(206, content_range="bytes 100-199/1000", content_encoding="gzip"), TryAgain, "E_ENCODED"),
        # H1, H34: 200 of another size, a login page
        (of_cdn(200, content_length="999"), TryAgain, "E_CONTENT_CHANGED"),
        (of_cdn(200, content_length="77", content_type="text/html"), TryAgain, "E_CAPTIVE_PORTAL"),
        (of_cdn(200, content_type="text/html"), TryAgain, "E_CAPTIVE_PORTAL"),
        # H10: another content than the listing's
        (of_hub(302, location="https://cdn/x", x_linked_etag=f'"{"b" * 64}"'), TryAgain, "E_CONTENT_CHANGED"),
        (of_hub(302, location="https://cdn/x", x_linked_size="999"), TryAgain, "E_CONTENT_CHANGED"),
        (of_hub(302, location="https://cdn/x", x_repo_commit="0" * 40), TryAgain, "E_CONTENT_CHANGED"),
        # H12, H13, H18, H35
        (of_cdn(416, content_range="bytes */1000"), TryAgain, "E_HTTP"),
        (of_cdn(500), TryAgain, "E_HTTP"),
        (of_hub(502), TryAgain, "E_HTTP"),
        (of_hub(504), TryAgain, "E_HTTP"),
        (of_hub(407), TryAgain, "E_HTTP"),
        (of_hub(503), TryAgain, "E_HTTP"),
        # H14 to H17
        (of_hub(429), TryLater, "E_RATE_LIMITED"),
        (of_cdn(429, retry_after="3"), TryLater, "E_RATE_LIMITED"),
        (of_hub(503, retry_after="3"), TryLater, "E_RATE_LIMITED"),
        (of_hub(408, retry_after="3"), TryLater, "E_RATE_LIMITED"),
        # H19 against H20 to H23: the same status means another thing from the other side
        (of_cdn(403), ResolveAgain, "E_URL_EXPIRED"),
        (of_cdn(401), ResolveAgain, "E_URL_EXPIRED"),
        (of_hub(403), AskHuman, "E_FORBIDDEN"),
        (of_hub(403, x_error_code="GatedRepo"), AskHuman, "E_GATED"),
        (of_hub(401, x_error_code="GatedRepo"), AskHuman, "E_GATED"),
        (of_hub(401, x_error_message="Invalid credentials in Authorization header"), AskHuman, "E_AUTH"),
        (of_hub(401, x_error_message="Invalid username or password."), AskHuman, "E_NOT_FOUND"),
        (of_hub(404, x_error_code="RepoNotFound"), AskHuman, "E_NOT_FOUND"),
        (of_hub(404, x_error_code="RevisionNotFound"), AskHuman, "E_REVISION_NOT_FOUND"),
        (of_hub(404, x_error_code="EntryNotFound"), AskHuman, "E_FILE_NOT_FOUND"),
        (of_hub(410), AskHuman, "E_NOT_FOUND"),
        (of_hub(451), AskHuman, "E_NOT_FOUND"),
        (of_hub(403, x_error_message="Access to this resource is disabled."), AskHuman, "E_DISABLED"),
        # H30, H31: a redirect to nowhere
        (of_hub(302), TryAgain, "E_REDIRECT"),
        (of_hub(302, location="https://x/\r\nSet-Cookie: a"), TryAgain, "E_REDIRECT"),
    ],
)
def test_answers_that_are_trouble(answer: Answer, kind: type[Trouble], code: str) -> None:
    """The rows of the fault table that are decisions."""
    verdict = judge(ASKED, answer)
    assert isinstance(verdict, Trouble) and (type(verdict), verdict.code) == (kind, code)


@pytest.mark.fault("H1", "H3", "H9", "H11")
@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (of_cdn(206, content_range="bytes 100-199/1000"), TakeBody(skip=0, length=100)),
        (of_cdn(206, content_range="bytes 100-149/1000"), TakeBody(skip=0, length=50)),  # less than asked is allowed
        (of_cdn(206, content_range="bytes 100-199/*"), TakeBody(skip=0, length=100)),  # the hash is the judge
        (of_hub(206, content_range="bytes 100-199/1000", content_encoding="identity"), TakeBody(skip=0, length=100)),
        (of_hub(200, content_length="77", content_encoding="gzip"), TakeBody(skip=100, length=100, gzipped=True)),
        (of_cdn(200, content_length="1000"), TakeBody(skip=100, length=100)),
        (of_cdn(200), TakeBody(skip=100, length=100)),
        (of_hub(302, location="https://cdn/x", x_linked_etag=f'"{SHA}"', x_linked_size="1000"), Follow(location="https://cdn/x")),
        (of_hub(307, location="/api/resolve-cache/x", x_repo_commit=COMMIT), Follow(location="/api/resolve-cache/x")),
        (of_hub(302, location="https://x/a b/é%20#1?k=a%2Bb&s=x"), Follow(location="https://x/a%20b/%C3%A9%20#1?k=a%2Bb&s=x")),
    ],
)  # fmt: skip
def test_answers_that_are_the_bytes_or_the_way_to_them(answer: Answer, verdict: TakeBody | Follow) -> None:
    """What is taken, what is skipped, and where to go."""
    assert judge(ASKED, answer) == verdict


@pytest.mark.fault("H2", "H7")
@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(["content-range", "content-length", "location", "retry-after", "x-error-code", "ratelimit"]),
        st.text(max_size=30) | st.sampled_from([GOOD_RANGE["content-range"], "1000", "/x", "5"]),
    ),
    st.booleans(),
)
def test_every_answer_gets_a_verdict_and_no_body_is_taken_beyond_what_was_asked(
    status: int, headers: dict[str, str], from_hub: bool
) -> None:
    """Total, and safe."""
    verdict = judge(ASKED, Answer(status=status, headers=headers, from_hub=from_hub))
    if isinstance(verdict, TakeBody):
        assert 0 < verdict.length <= 100 and verdict.skip in (0, 100)
    else:
        assert isinstance(verdict, Follow | Trouble)
