#!/bin/bash
# What the encoders of the wire format write comes back, and nothing else is taken.
cd "$(dirname "$0")/../fuzz" || exit 1
make -s wire_test || exit 1
exec ../build/fuzz/wire_test
