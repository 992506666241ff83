"""The signatures over one pipeline, by the accounts that added them.

A pipeline is what its CID says, no matter who publishes it first; so nobody owns it, and each account adds
the signatures that it has. The broker cannot check most of them, since a bundle names a key only by its hash.
Therefore no account can replace or crowd out what another has added: each has a bound of its own, and where
not all fit into what is served, each account's first one comes before any account's second.
"""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import Final

from msgspec.structs import replace

from tradepost.errors import InvalidPipeline, QuotaExceeded
from tradepost_broker.storage.shell_records import Publication
from tradepost_signing.bundles.bundle import (
    PIPELINE_BUNDLES_BYTES_MAX,
    PIPELINE_SIGNATURES_MAX,
    SIGNATURES_MAX,
    join_bundles,
)
from tradepost_signing.checks.verify import claimed_signatures

#: Accounts that may sign one pipeline: each has a place in what is served.
ACCOUNTS_MAX: Final = PIPELINE_SIGNATURES_MAX


def add_signatures(publication: Publication, account: str, bundles: str) -> Publication:
    """The publication with the signatures in `bundles` among those of `account`.

    A signer whose signature the account had added before is replaced, but no other account's is touched.
    Raises `InvalidPipeline` beyond `SIGNATURES_MAX` signers of one account, `QuotaExceeded` beyond
    `ACCOUNTS_MAX` accounts, and as `claimed_signatures`.
    """
    all_bundles = {publication.account: publication.bundle, **publication.added}
    if account not in all_bundles and len(all_bundles) >= ACCOUNTS_MAX:
        raise QuotaExceeded(f"{len(all_bundles)} accounts have signed this pipeline", limit=ACCOUNTS_MAX)
    own = dict(_signatures(publication.manifest, all_bundles.get(account, "")))
    own |= _signatures(publication.manifest, bundles)
    if len(own) > SIGNATURES_MAX:
        raise InvalidPipeline(
            f"this account has signed it with {len(own)} keys or identities; the limit is {SIGNATURES_MAX}",
            hint="Publish a new version of the pipeline: it has signatures of its own.",
        )
    text = join_bundles(own.values())
    if account == publication.account:
        return replace(publication, bundle=text)
    return replace(publication, added={**publication.added, account: text})


def served_signatures(publication: Publication) -> tuple[tuple[str, ...], str]:
    """The ids of all who signed, as their bundles claim, and the bundles that are served, at most
    `PIPELINE_SIGNATURES_MAX` in `PIPELINE_BUNDLES_BYTES_MAX` characters."""
    by_account = [
        list(_signatures(publication.manifest, text).items())
        for text in (publication.bundle, *publication.added.values())
    ]
    in_turn = [one for one in chain.from_iterable(zip_longest(*by_account)) if one is not None]
    served: list[str] = []
    chars = 0
    for _, text in in_turn[:PIPELINE_SIGNATURES_MAX]:
        if (chars := chars + len(text) + 1) > PIPELINE_BUNDLES_BYTES_MAX:
            break
        served.append(text)
    return tuple(dict.fromkeys(signer for signer, _ in in_turn)), join_bundles(served)


def _signatures(manifest: bytes, bundles: str) -> dict[str, str]:
    """By the signer's id; of several by one signer, the last."""
    return dict(claimed_signatures(manifest, bundles)) if bundles else {}
