"""Pictures of a source's rows: from bytes, base64, allowed folders and allowed hosts."""
