-- What came with log format 2. Of older completions, the hash of their settings is not known.
ALTER TABLE completions ADD COLUMN sampling BLOB;
-- Beside the run: how it was written, and what was found in its texts.
CREATE TABLE sessions (
    session UINTEGER NOT NULL,
    began_at TIMESTAMP NOT NULL,
    execution JSON NOT NULL
);
CREATE TABLE commits (
    session UINTEGER NOT NULL,
    committed_at TIMESTAMP NOT NULL,
    num_rows UINTEGER NOT NULL,
    delay_us UBIGINT NOT NULL
);
CREATE TABLE labels (
    scene BLOB NOT NULL,
    path VARCHAR NOT NULL,
    attempt UINTEGER NOT NULL,
    label VARCHAR NOT NULL,
    detector VARCHAR NOT NULL,
    version UINTEGER NOT NULL
);
CREATE TABLE detectors (
    detector VARCHAR NOT NULL,
    version UINTEGER NOT NULL,
    labelled_at TIMESTAMP NOT NULL,
    num_turns UBIGINT NOT NULL
);
