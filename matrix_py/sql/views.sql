-- One row a scene: what was asked, what came of it in the end (a scene may revise more than once).
CREATE VIEW scene AS
SELECT
    lower(hex(s.scene)) AS scene,
    s.position,
    s.label,
    s.row,
    instruction.text AS instruction,
    (SELECT arg_max(e.payload ->> 'text', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'ResponseGiven') AS response,
    (SELECT arg_max(e.payload ->> 'text', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'ResponseRevised') AS revision,
    coalesce((SELECT arg_max(e.payload ->> 'end', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'SceneFinished'), 'open') AS state,
    (SELECT arg_max(e.payload ->> 'reason', e.seq) FROM events e WHERE e.scene = s.scene AND e.kind = 'SceneFinished') AS reason,
    s.meta
FROM scenes s
JOIN texts instruction ON instruction.hash = s.instruction;

-- One row a turn: what was asked of the LLM, and what it said.
CREATE VIEW turn AS
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
CREATE VIEW event AS
SELECT lower(hex(scene)) AS scene, seq, kind, payload, lower(hex(hash)) AS hash, recorded_at
FROM events;
