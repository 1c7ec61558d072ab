-- Left to choose, DuckDB takes zstd for strings of 4 KiB and more only: payloads, which repeat one another, are a third as long with it.
-- Tables of log format 1; format_2.sql to format_4.sql have what came later. docs/sql.md describes every column.
CREATE TABLE run (
    run_id VARCHAR NOT NULL,
    format INTEGER NOT NULL,
    config JSON NOT NULL,
    execution JSON NOT NULL,
    root BLOB,
    created_at TIMESTAMP NOT NULL
);
CREATE TABLE texts (
    hash BLOB NOT NULL,
    text VARCHAR NOT NULL USING COMPRESSION zstd
);
CREATE TABLE scenes (
    scene BLOB NOT NULL,
    position UBIGINT NOT NULL,
    label VARCHAR NOT NULL,
    row UBIGINT NOT NULL,
    occurrence UBIGINT NOT NULL,
    instruction BLOB NOT NULL,
    response BLOB,
    meta JSON NOT NULL
);
CREATE TABLE completions (
    scene BLOB NOT NULL,
    path VARCHAR NOT NULL,
    attempt UINTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    request BLOB NOT NULL,
    outcome VARCHAR NOT NULL,
    finish VARCHAR NOT NULL,
    text BLOB NOT NULL,
    segments BLOB[] NOT NULL,
    trusted BOOLEAN[] NOT NULL,
    prompt_tokens UINTEGER NOT NULL,
    cached_tokens UINTEGER NOT NULL,
    generated_tokens UINTEGER NOT NULL,
    masked_tokens UINTEGER NOT NULL,
    log_odds REAL,
    queued_us UBIGINT NOT NULL,
    prefill_us UBIGINT NOT NULL,
    decode_us UBIGINT NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
CREATE TABLE events (
    scene BLOB NOT NULL,
    seq UINTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    payload JSON NOT NULL USING COMPRESSION zstd,
    hash BLOB NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
