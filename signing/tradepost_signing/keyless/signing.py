"""Keyless signing, with a certificate of ten minutes that Sigstore issues for a proven identity.

The proof is an OpenID Connect token: given, from the CI system that this runs in, or from signing in with a
browser. Fulcio turns it into a certificate, and Rekor logs the signature; both are public, and for ever.
All of this needs the network, which nothing else in this package does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tradepost.errors import IdentityRefused, SigstoreUnavailable

if TYPE_CHECKING:
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

TOKEN_VARIABLE: Final = "SIGSTORE_IDENTITY_TOKEN"  # noqa: S105  (a name, not a token)


class KeylessSigner:
    """Signs with the identity of `token`, through the Sigstore instance of `context`."""

    def __init__(self, context: SigningContext, token: IdentityToken) -> None:
        self._context = context
        self._token = token

    @classmethod
    def connect(cls, *, token: str | None, interactive: bool) -> KeylessSigner:
        """A signer through Sigstore's public instance.

        Without a `token` it is asked of the CI system, then, if `interactive`, of the person at the terminal.
        Raises `SigstoreUnavailable` or `IdentityRefused`.
        """
        from sigstore.models import ClientTrustConfig
        from sigstore.oidc import IdentityToken, Issuer, detect_credential
        from sigstore.sign import SigningContext

        with _typed_errors():
            config = ClientTrustConfig.production()
            context = SigningContext.from_trust_config(config)
            if (raw := token or detect_credential()) is not None:
                return cls(context, IdentityToken(raw))
            if not interactive:
                raise IdentityRefused("there is no identity token, and no terminal for a login")
            return cls(context, Issuer(config.signing_config.get_oidc_url()).identity_token())

    def sign_digest(self, digest: bytes) -> str:
        """The bundle (JSON) over bytes with this SHA-256. Raises as `connect` does."""
        from sigstore.hashes import Hashed
        from sigstore_models.common.v1 import HashAlgorithm

        with _typed_errors(), self._context.signer(self._token) as signer:
            return signer.sign_artifact(Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest)).to_json()

    def sign_statement(self, statement: bytes) -> str:
        """The bundle (JSON) with this in-toto statement in a DSSE envelope. Raises as `connect` does."""
        from sigstore.dsse import Statement

        with _typed_errors(), self._context.signer(self._token) as signer:
            return signer.sign_dsse(Statement(statement)).to_json()


@contextmanager
def _typed_errors() -> Iterator[None]:
    import requests
    from sigstore._internal.fulcio.client import ExpiredCertificate, FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error, NetworkError, TUFError
    from sigstore.oidc import ExpiredIdentity, IdentityError, IssuerError

    try:
        yield
    except (IdentityError, ExpiredIdentity) as error:
        raise IdentityRefused(str(error)) from error
    except (NetworkError, TUFError, requests.RequestException) as error:
        raise SigstoreUnavailable(_innermost(error)) from error
    except (Error, FulcioClientError, RekorClientError, IssuerError, ExpiredCertificate) as error:
        raise SigstoreUnavailable(f"its answer is not valid: {_innermost(error)}") from error


def _innermost(error: BaseException) -> str:
    """What went wrong in the first place: the outer errors only say in whose name."""
    while (cause := error.__cause__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
