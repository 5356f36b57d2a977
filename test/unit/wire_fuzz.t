#!/bin/bash
# No bytes make the decoders of the wire format read astray, grow without bound,
# or accept what their encoders would have written otherwise.
exec "$(dirname "$0")/../fuzz/run.sh" "${COZE_FUZZ_SECONDS:-20}"
