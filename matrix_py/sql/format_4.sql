-- What came with log format 4. Beside the run: datasets that were made of its scenes, and models that were tuned on those.
CREATE TABLE datasets (
    dataset BLOB NOT NULL,
    built_at TIMESTAMP NOT NULL,
    options JSON NOT NULL,
    counts JSON NOT NULL
);
CREATE TABLE dataset_rows (
    dataset BLOB NOT NULL,
    number UINTEGER,
    row BLOB,
    kind VARCHAR NOT NULL,
    scene BLOB NOT NULL,
    path VARCHAR NOT NULL,
    attempt UINTEGER NOT NULL,
    split VARCHAR,
    dropped_by VARCHAR
);
CREATE TABLE tunings (
    tuning VARCHAR NOT NULL,
    dataset BLOB NOT NULL,
    began_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP,
    options JSON NOT NULL,
    base VARCHAR NOT NULL,
    adapter VARCHAR,
    merged VARCHAR
);
CREATE TABLE tuning_steps (
    tuning VARCHAR NOT NULL,
    step UINTEGER NOT NULL,
    epoch DOUBLE,
    loss DOUBLE,
    held_out_loss DOUBLE,
    learning_rate DOUBLE,
    grad_norm DOUBLE,
    num_tokens UBIGINT,
    seconds DOUBLE
);
