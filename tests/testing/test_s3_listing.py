"""Pages of listings against a brute-force model, and the documents around them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dataplane_testing.s3.documents import escape, read_document
from dataplane_testing.s3.listing import PageRequest, decode_token, encode_token, list_page
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.objects import Attributes, ObjectVersion


def version(key: str) -> ObjectVersion:
    return ObjectVersion(key, Path(), 0, '"e"', 0.0, Attributes(), "")


def brute_force(keys: list[str], prefix: str, delimiter: str) -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for key in sorted(keys):
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = ("key", key) if end < 0 else ("prefix", key[: end + len(delimiter)])
        if entry not in entries:
            entries.append(entry)
    return entries


@pytest.mark.parametrize("seed", range(30))
def test_all_pages_together_are_what_brute_force_finds(seed):
    rng = random.Random(seed)
    alphabet = ["a", "b", "/", "//", "-", "\U0010ffff", "é"]
    keys = sorted({"".join(rng.choices(alphabet, k=rng.randint(1, 6))) for _ in range(60)})
    versions = [version(key) for key in keys]
    for prefix in ("", "a", "a/", "/", "b/a", "nothing", "\U0010ffff"):
        for delimiter in ("", "/", "//", "a"):
            for max_keys in (1, 2, 3, 7, 1000):
                found: list[tuple[str, str]] = []
                after = ""
                for _ in range(100):
                    request = PageRequest(prefix, delimiter, after, max_keys)
                    page = list_page(versions, request)
                    entries = [("key", item.key) for item in page.objects]
                    entries += [("prefix", text) for text in page.prefixes]
                    assert len(entries) <= max_keys
                    found += sorted(entries, key=lambda entry: entry[1])
                    if page.next_after is None:
                        break
                    assert len(entries) == max_keys
                    after = decode_token(encode_token(page.next_after))
                assert found == brute_force(keys, prefix, delimiter), (prefix, delimiter, max_keys)


@pytest.mark.parametrize("token", ["", "x", "!!!!", "MQ", "Mg==", "ÿ"])
def test_foreign_continuation_tokens_are_refused(token):
    with pytest.raises(S3Error) as caught:
        decode_token(token)
    assert caught.value.code == "InvalidArgument"


def test_a_document_is_read_whatever_its_namespace():
    text = (
        b'<d:Delete xmlns:d="urn:x"><d:Quiet>true</d:Quiet>'
        b"<d:Object><d:Key>a&amp;b&#13;</d:Key></d:Object><d:Object><d:Key>c</d:Key></d:Object>"
        b"</d:Delete>"
    )
    items, fields = read_document(text, "Delete", "Object")
    assert (items, fields) == ([{"Key": "a&b\r"}, {"Key": "c"}], {"Quiet": "true"})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<Delete>",
        b"<Other/>",
        b"<Delete><Object></Delete></Object>",
        b"not xml",
        b"<!DOCTYPE Delete [<!ENTITY a 'aaaa'>]><Delete>&a;</Delete>",
        b"<!DOCTYPE Delete SYSTEM 'file:///etc/passwd'><Delete/>",
        b"<Delete>" + b"<a>" * 50 + b"</a>" * 50 + b"</Delete>",
        b"<Delete>" + b"<a/>" * 200_000 + b"</Delete>",
        b"\xff\xfe\x00",
    ],
)
def test_malformed_and_hostile_documents_are_refused(text):
    with pytest.raises(S3Error) as caught:
        read_document(text, "Delete", "Object")
    assert caught.value.code == "MalformedXML"


def test_text_is_escaped_with_its_control_characters():
    assert escape('a<b>&"\r\x01') == "a&lt;b&gt;&amp;&quot;&#13;&#1;"
