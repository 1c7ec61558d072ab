-- Views over events are typed: what a payload does not have, or has not yet, is NULL.

-- One row a scene: what was asked, what came of it in the end (a scene may revise more than once).
CREATE OR REPLACE VIEW scene AS
SELECT
    lower(hex(s.scene)) AS scene,
    s.position,
    s.label,
    s.row,
    instruction.text AS instruction,
    e.response,
    e.consequence,
    e.revision,
    coalesce(e.kept, false) AS kept,
    e.end_reason,
    e.steps,
    e.interactions,
    coalesce(e.state, 'open') AS state,
    e.reason,
    s.meta
FROM scenes s
JOIN texts instruction ON instruction.hash = s.instruction
LEFT JOIN (
    SELECT
        scene,
        arg_max(payload ->> 'text', seq) FILTER (kind = 'ResponseGiven') AS response,
        arg_max(payload ->> 'text', seq) FILTER (kind = 'ConsequenceDrawn') AS consequence,
        arg_max(payload ->> 'text', seq) FILTER (kind = 'ResponseRevised') AS revision,
        bool_or(kind = 'ResponseKept') AS kept,
        arg_max(payload ->> 'reason', seq) FILTER (kind = 'SimulationEnded') AS end_reason,
        arg_max((payload ->> 'steps')::UINTEGER, seq) FILTER (kind = 'SimulationEnded') AS steps,
        arg_max((payload ->> 'interactions')::UINTEGER, seq) FILTER (kind = 'SimulationEnded') AS interactions,
        arg_max(payload ->> 'end', seq) FILTER (kind = 'SceneFinished') AS state,
        nullif(arg_max(payload ->> 'reason', seq) FILTER (kind = 'SceneFinished'), '') AS reason
    FROM events
    WHERE kind IN ('ResponseGiven', 'ConsequenceDrawn', 'ResponseRevised', 'ResponseKept', 'SimulationEnded', 'SceneFinished')
    GROUP BY scene
) e USING (scene);

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
    coalesce(c.source, 'model') AS source,
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

-- One row an action that a role set out to do: what the modulator said of it, and what came of it. All events of an action are put
-- together in one pass; what its fields are is looked at afterwards.
CREATE OR REPLACE VIEW action AS
SELECT
    lower(hex(a.scene)) AS scene,
    a.action,
    (a.proposed ->> 'ordinal')::UINTEGER AS ordinal,
    (a.proposed ->> 'step')::UINTEGER AS step,
    (a.proposed ->> 'depth')::UINTEGER AS depth,
    a.proposed ->> 'role' AS role,
    (a.proposed ->> 'rank')::UINTEGER AS rank,
    a.proposed ->> 'origin' AS origin,
    a.proposed ->> '$.causes[*]' AS causes,
    a.proposed ->> 'text' AS text,
    (a.judged ->> 'feasible')::BOOLEAN AS feasible,
    a.judged ->> 'reason' AS reason,
    verdict.log_odds,
    (a.accepted ->> 'interaction')::UINTEGER AS interaction,
    a.accepted IS NOT NULL AS took_place,
    a.dropped IS NOT NULL AS dropped,
    a.noticed ->> '$.recipients[*]' AS recipients,
    (a.harm ->> 'severity')::UINTEGER AS severity,
    a.harm ->> 'text' AS critique
FROM (
    SELECT
        scene,
        payload ->> 'action' AS action,
        any_value(payload) FILTER (kind = 'ActionProposed') AS proposed,
        any_value(payload) FILTER (kind = 'FeasibilityJudged') AS judged,
        any_value(payload) FILTER (kind = 'ActionAccepted') AS accepted,
        any_value(payload) FILTER (kind = 'ActionDropped') AS dropped,
        any_value(payload) FILTER (kind = 'ActionNoticed') AS noticed,
        any_value(payload) FILTER (kind = 'HarmNoted') AS harm
    FROM events
    WHERE kind IN ('ActionProposed', 'FeasibilityJudged', 'ActionAccepted', 'ActionDropped', 'ActionNoticed', 'HarmNoted')
    GROUP BY ALL
    HAVING proposed IS NOT NULL
) a
LEFT JOIN (
    SELECT scene, path, arg_max_null(log_odds, attempt) AS log_odds FROM completions WHERE ends_with(path, '/feasible') GROUP BY scene, path
) verdict ON verdict.scene = a.scene AND verdict.path = a.action || '/feasible';

-- One row a harm that was noted, and how it came to the consequence: through which condensations, one after the other, and whether it
-- reached it. The turn that said it lies under its action; from there on, each turn that reads the one before takes it along.
CREATE OR REPLACE VIEW critique AS
WITH RECURSIVE
noted AS MATERIALIZED (
    SELECT scene, any_value(seq) FILTER (kind = 'HarmNoted') AS seq, payload ->> 'action' AS action,
        any_value(payload) FILTER (kind = 'ActionProposed') AS proposed,
        any_value(payload) FILTER (kind = 'ActionAccepted') AS accepted,
        any_value(payload) FILTER (kind = 'HarmNoted') AS harm
    FROM events
    WHERE kind IN ('ActionProposed', 'ActionAccepted', 'HarmNoted')
    GROUP BY ALL
    HAVING harm IS NOT NULL
),
-- A look at the text first: to take every turn's payload apart would take far longer. What stands in quotes there is escaped in values.
reader AS MATERIALIZED (
    SELECT DISTINCT scene, payload ->> 'turn' AS kind, payload ->> 'path' AS path,
        split_part(unnest(payload ->> '$.reads[*]'), '#', 1) AS reads
    FROM events
    WHERE kind = 'TurnCompleted' AND (contains(payload, '"turn":"con') OR contains(payload, '"turn":"revise",'))
        AND payload ->> 'turn' IN ('condense_critiques', 'consequence', 'revise')
),
-- Of condensations, those of which a text came.
condensed AS MATERIALIZED (
    SELECT reader.scene, reader.path, reader.reads
    FROM reader
    SEMI JOIN (SELECT scene, payload ->> 'turn' AS path FROM events WHERE kind = 'CritiquesCondensed') USING (scene, path)
    WHERE kind = 'condense_critiques'
),
-- What the consequence is made from. A method that has no turn for it lists the critiques in the revision's prompt.
consequence AS MATERIALIZED (
    SELECT scene, reads
    FROM reader
    SEMI JOIN (SELECT scene FROM events WHERE kind = 'ConsequenceDrawn') USING (scene)
    SEMI JOIN (SELECT scene, min(kind) AS kind FROM reader WHERE kind != 'condense_critiques' GROUP BY scene) USING (scene, kind)
),
carried AS (
    SELECT scene, action, action || '/critique' AS turn, []::VARCHAR[] AS through FROM noted
    UNION ALL
    SELECT carried.scene, carried.action, condensed.path, list_append(carried.through, condensed.path)
    FROM carried JOIN condensed ON condensed.scene = carried.scene AND condensed.reads = carried.turn
),
arrived AS (
    SELECT carried.scene, carried.action, bool_or(consequence.reads IS NOT NULL) AS reached,
        arg_max(carried.through, len(carried.through)) AS through
    FROM carried
    LEFT JOIN consequence ON consequence.scene = carried.scene AND consequence.reads = carried.turn
    GROUP BY ALL
)
SELECT
    lower(hex(noted.scene)) AS scene,
    row_number() OVER (PARTITION BY noted.scene ORDER BY noted.seq)::UINTEGER AS ordinal,
    noted.action,
    noted.proposed ->> 'role' AS role,
    (noted.proposed ->> 'rank')::UINTEGER AS rank,
    (noted.proposed ->> 'step')::UINTEGER AS step,
    (noted.proposed ->> 'depth')::UINTEGER AS depth,
    (noted.accepted ->> 'interaction')::UINTEGER AS interaction,
    (noted.harm ->> 'severity')::UINTEGER AS severity,
    noted.harm ->> 'text' AS text,
    noted.action || '/critique' AS turn,
    arrived.through,
    if(drawn.scene IS NULL, NULL, arrived.reached) AS reached
FROM noted
JOIN arrived USING (scene, action)
LEFT JOIN (SELECT DISTINCT scene FROM consequence) drawn ON drawn.scene = noted.scene;

-- One row a stage of a critique on its way: itself, the condensations, the consequence, the revision. It ends where the critique was lost.
CREATE OR REPLACE VIEW lineage AS
WITH
way AS MATERIALIZED (FROM critique),
outcome AS (
    SELECT lower(hex(scene)) AS scene, kind, if(kind = 'ConsequenceDrawn', said.path, 'revise') AS turn,
        arg_max(payload ->> 'text', seq) AS text
    FROM events LEFT JOIN (SELECT DISTINCT scene, path FROM completions WHERE path = 'consequence') said USING (scene)
    WHERE kind IN ('ConsequenceDrawn', 'ResponseRevised')
    GROUP BY ALL
)
SELECT scene, action, 0::UINTEGER AS place, 'critique' AS stage, turn, text FROM way
UNION ALL
SELECT way.scene, way.action, way.place, 'condensation', way.turn, condensed.text
FROM (SELECT scene, action, generate_subscripts(through, 1)::UINTEGER AS place, unnest(through) AS turn FROM way) way
JOIN (
    SELECT lower(hex(scene)) AS scene, payload ->> 'turn' AS turn, payload ->> 'text' AS text FROM events WHERE kind = 'CritiquesCondensed'
) condensed USING (scene, turn)
UNION ALL
SELECT way.scene, way.action, (len(way.through) + if(kind = 'ConsequenceDrawn', 1, 2))::UINTEGER,
    if(kind = 'ConsequenceDrawn', 'consequence', 'revision'), outcome.turn, outcome.text
FROM way JOIN outcome USING (scene)
WHERE way.reached;

-- One row a label of a turn's text, as `matrix label` found it. What was not found has no row: `detectors` says who looked.
CREATE OR REPLACE VIEW label AS
SELECT lower(hex(scene)) AS scene, path, attempt, label, detector, version
FROM labels;
