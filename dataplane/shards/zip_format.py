"""The records of a zip archive: layouts, marks and limits that writer and reader share.

Source: APPNOTE.TXT 6.3.10 (PKWARE).
"""

from __future__ import annotations

import struct

LOCAL = struct.Struct("<4sHHHHHIIIHH")
CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
END = struct.Struct("<4sHHHHIIH")
END64 = struct.Struct("<4sQHHIIQQQQ")
LOCATOR64 = struct.Struct("<4sIQI")
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64_MAGIC, LOCATOR64_MAGIC = b"PK\x06\x06", b"PK\x06\x07"
ZIP64_EXTRA, ALIGN_EXTRA = 0x0001, 0xD935
U16, U32 = 0xFFFF, 0xFFFFFFFF
UTF8_FLAG = 1 << 11
VERSION, VERSION64, UNIX = 20, 45, 3
DOS_EPOCH_DATE = (0 << 9) | (1 << 5) | 1
"""1980-01-01: archives of equal content are equal."""
FILE_MODE = 0o100644 << 16
MAX_ENTRIES = 1 << 20
MAX_DIRECTORY_BYTES = 256 << 20
MAX_COMMENT_BYTES = U16
