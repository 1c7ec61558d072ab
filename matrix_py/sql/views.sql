-- Views over events are typed: what a payload does not have, or has not yet, is NULL.

-- One row a scene: what was asked, what came of it in the end (a scene may revise more than once).
CREATE OR REPLACE VIEW scene AS
SELECT
    lower(hex(s.scene)) AS scene,
    s.position,
    s.label,
    s.row,
    instruction.text AS instruction,
    (SELECT arg_max(e.payload ->> 'text', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'ResponseGiven') AS response,
    (SELECT arg_max(e.payload ->> 'text', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'ConsequenceDrawn') AS consequence,
    (SELECT arg_max(e.payload ->> 'text', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'ResponseRevised') AS revision,
    EXISTS (SELECT 1 FROM events e WHERE e.scene = s.scene AND e.kind = 'ResponseKept') AS kept,
    (SELECT arg_max(e.payload ->> 'reason', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'SimulationEnded') AS end_reason,
    (SELECT arg_max((e.payload ->> 'steps')::UINTEGER, e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'SimulationEnded') AS steps,
    (SELECT arg_max((e.payload ->> 'interactions')::UINTEGER, e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'SimulationEnded')
        AS interactions,
    coalesce((SELECT arg_max(e.payload ->> 'end', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'SceneFinished'), 'open') AS state,
    (SELECT nullif(arg_max(e.payload ->> 'reason', e.seq), '') FROM events e WHERE e.scene = s.scene AND e.kind = 'SceneFinished') AS reason,
    s.meta
FROM scenes s
JOIN texts instruction ON instruction.hash = s.instruction;

-- One row a turn: what was asked of the LLM, and what it said.
CREATE OR REPLACE VIEW turn AS
SELECT
    lower(hex(c.scene)) AS scene,
    c.path,
    c.attempt,
    c.kind,
    c.outcome,
    c.finish,
    t.text,
    c.prompt_tokens,
    c.cached_tokens,
    c.generated_tokens,
    c.masked_tokens,
    c.log_odds,
    c.queued_us,
    c.prefill_us,
    c.decode_us,
    lower(hex(c.request)) AS request,
    c.recorded_at
FROM completions c
JOIN texts t ON t.hash = c.text;

-- One row an event, with hashes as text.
CREATE OR REPLACE VIEW event AS
SELECT lower(hex(scene)) AS scene, seq, kind, payload, lower(hex(hash)) AS hash, recorded_at
FROM events;

-- One row a completion whose event is there: what its request was made from. Beside `turn`, which it would slow down.
CREATE OR REPLACE VIEW request AS
SELECT
    lower(hex(scene)) AS scene,
    payload ->> 'path' AS path,
    (payload ->> 'attempt')::UINTEGER AS attempt,
    payload ->> 'template' AS template,
    payload ->> 'inputs' AS inputs,
    payload ->> '$.reads[*]' AS reads
FROM events
WHERE kind = 'TurnCompleted';

-- One row a turn, or an act as planned or a response as given, that a request was made from, in the order of its `reads`. Of `path#2`, the path and the attempt.
CREATE OR REPLACE VIEW read AS
SELECT
    scene,
    path,
    attempt,
    place,
    reads,
    regexp_replace(reads, '#[0-9]+$', '') AS reads_path,
    coalesce(nullif(regexp_extract(reads, '#([0-9]+)$', 1), ''), '1')::UINTEGER AS reads_attempt
FROM (SELECT scene, path, attempt, generate_subscripts(reads, 1)::UINTEGER AS place, unnest(reads) AS reads FROM request);

-- One row a flaw of a reply, and what was done about it.
CREATE OR REPLACE VIEW flaw AS
SELECT
    lower(hex(scene)) AS scene,
    payload ->> 'path' AS path,
    (payload ->> 'attempt')::UINTEGER AS attempt,
    payload ->> 'flaw' AS flaw,
    payload ->> 'policy' AS policy
FROM events
WHERE kind = 'ReplyFlawed';

-- One row a role of a cast; rank 0 is the ego.
CREATE OR REPLACE VIEW role AS
SELECT
    lower(hex(scene)) AS scene,
    payload ->> 'role' AS role,
    (payload ->> 'rank')::UINTEGER AS rank,
    payload ->> 'origin' AS origin,
    payload ->> 'profile' AS profile
FROM events
WHERE kind = 'RoleCast';

-- One row an action that a role set out to do: what the modulator said of it, and what came of it.
CREATE OR REPLACE VIEW action AS
SELECT
    lower(hex(a.scene)) AS scene,
    a.action,
    (a.payload ->> 'ordinal')::UINTEGER AS ordinal,
    (a.payload ->> 'step')::UINTEGER AS step,
    (a.payload ->> 'depth')::UINTEGER AS depth,
    a.payload ->> 'role' AS role,
    (a.payload ->> 'rank')::UINTEGER AS rank,
    a.payload ->> 'origin' AS origin,
    a.payload ->> '$.causes[*]' AS causes,
    a.payload ->> 'text' AS text,
    (judged.payload ->> 'feasible')::BOOLEAN AS feasible,
    judged.payload ->> 'reason' AS reason,
    verdict.log_odds,
    (accepted.payload ->> 'interaction')::UINTEGER AS interaction,
    accepted.payload IS NOT NULL AS took_place,
    dropped.payload IS NOT NULL AS dropped,
    noticed.payload ->> '$.recipients[*]' AS recipients,
    (harm.payload ->> 'severity')::UINTEGER AS severity,
    harm.payload ->> 'text' AS critique
FROM (SELECT scene, payload ->> 'action' AS action, payload FROM events WHERE kind = 'ActionProposed') a
LEFT JOIN events judged
    ON judged.kind = 'FeasibilityJudged' AND judged.scene = a.scene AND judged.payload ->> 'action' = a.action
LEFT JOIN events accepted
    ON accepted.kind = 'ActionAccepted' AND accepted.scene = a.scene AND accepted.payload ->> 'action' = a.action
LEFT JOIN events dropped
    ON dropped.kind = 'ActionDropped' AND dropped.scene = a.scene AND dropped.payload ->> 'action' = a.action
LEFT JOIN events noticed
    ON noticed.kind = 'ActionNoticed' AND noticed.scene = a.scene AND noticed.payload ->> 'action' = a.action
LEFT JOIN events harm
    ON harm.kind = 'HarmNoted' AND harm.scene = a.scene AND harm.payload ->> 'action' = a.action
LEFT JOIN (
    SELECT scene, path, arg_max_null(log_odds, attempt) AS log_odds FROM completions WHERE ends_with(path, '/feasible') GROUP BY scene, path
) verdict ON verdict.scene = a.scene AND verdict.path = a.action || '/feasible';

-- One row a label of a turn's text, as `matrix label` found it. What was not found has no row: `detectors` says who looked.
CREATE OR REPLACE VIEW label AS
SELECT lower(hex(scene)) AS scene, path, attempt, label, detector, version
FROM labels;
