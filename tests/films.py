"Films as phones write them."

import struct


def with_matrix(path, matrix):
    "The file with another display matrix (a, b, u, c, d, v, x, y, w) in its track header."
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path
