"""A message whose text is not UTF-8 is a message that the protocol does not allow, not a crash."""

import pytest

from tradepost.errors import ProtocolError
from tradepost.protocol import (
    broker_codec_for_clients,
    broker_codec_for_workers,
    client_codec,
    worker_codec,
)


@pytest.mark.parametrize(
    "codec", [broker_codec_for_clients, broker_codec_for_workers, client_codec, worker_codec]
)
def test_text_that_is_not_utf8_is_refused(codec):
    frame = b"\x82\xa4type\xa6recall\xa5lease\xa1\xff"
    for message in (b"\x91" + frame, b"\x91\x81\xa4type\xa1\xff", b"\x91\xa1\xff"):
        with pytest.raises(ProtocolError):
            codec().decode(message)
