"""What an index is on disk and how it changes.

Knows no model, no Prefect and no web: numpy, pyarrow, msgspec and object storage only.
`SPEC.md` beside this file is normative; where code and SPEC differ, the code is wrong.
"""
