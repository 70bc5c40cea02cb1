#!/bin/sh
# Write src/wavetune/data_plane/messages_pb2.py and .pyi from messages.proto, in an environment of its own.
set -eu
cd "$(dirname "$0")/../src/wavetune/data_plane"
python3 -m venv --clear ../../../build/protobuf
../../../build/protobuf/bin/python -m pip install --quiet grpcio-tools==1.81.1
../../../build/protobuf/bin/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. messages.proto
