-- Two runs side by side: attach their logs as `a` and `b`, then run this file. Scenes are compared that both have finished.
-- docs/diff.md describes every column, and how to have a third run as a noise floor.

-- One row a scene that is compared; `position` is that in A.
CREATE OR REPLACE TEMP VIEW diff_pair AS
SELECT lower(hex(s.scene)) AS scene, s.position, s.scene AS id
FROM a.scenes s
WHERE s.scene IN (SELECT scene FROM b.scenes)
    AND s.scene IN (SELECT scene FROM a.events WHERE kind = 'SceneFinished')
    AND s.scene IN (SELECT scene FROM b.events WHERE kind = 'SceneFinished');

-- One row a turn that somebody who forked a run gave the answer of; `scene` is empty where it is so in all scenes.
CREATE OR REPLACE TEMP VIEW diff_edit AS
SELECT DISTINCT edit ->> 'scene' AS scene, edit ->> 'at' AS path
FROM (
    SELECT unnest(execution -> '$.change.edits[*]') AS edit FROM a.run
    UNION ALL
    SELECT unnest(execution -> '$.change.edits[*]') FROM b.run
);

-- One row a turn and run, by the event that it was completed. All fields of a payload are taken out at once, since each extraction would
-- parse it again.
CREATE OR REPLACE TEMP VIEW diff_said AS
SELECT
    side,
    position,
    seq,
    field[1] AS path,
    field[2]::UINTEGER AS attempt,
    field[3] AS kind,
    field[4] AS request,
    field[5] AS template,
    field[6] AS inputs,
    field[7] AS text,
    field[8] || ' ' || field[9] AS ending
FROM (
    SELECT
        side,
        position,
        seq,
        json_extract_string(
            payload, ['$.path', '$.attempt', '$.turn', '$.request', '$.template', '$.inputs', '$.text', '$.outcome', '$.finish']
        ) AS field
    FROM (
        SELECT 'a' AS side, p.position, e.seq, e.payload FROM a.events e JOIN diff_pair p ON p.id = e.scene WHERE e.kind = 'TurnCompleted'
        UNION ALL
        SELECT 'b', p.position, e.seq, e.payload FROM b.events e JOIN diff_pair p ON p.id = e.scene WHERE e.kind = 'TurnCompleted'
    )
);

-- One row a turn of either run.
CREATE OR REPLACE TEMP VIEW diff_turn AS
SELECT
    p.scene,
    position,
    t.path,
    t.attempt,
    t.kind,
    -- Who gave the answer knows why it is another.
    CASE
        WHEN NOT t.same_answer
            AND (t.path IN (SELECT path FROM diff_edit WHERE scene = '') OR (p.scene, t.path) IN (SELECT (scene, path) FROM diff_edit))
        THEN 'edited'
        ELSE t.change
    END AS change,
    t.same_request,
    t.same_answer,
    t.seq_a,
    t.seq_b
FROM (
    SELECT
        position,
        path,
        attempt,
        coalesce(x.kind, y.kind) AS kind,
        CASE
            WHEN y.seq IS NULL THEN 'disappeared'
            WHEN x.seq IS NULL THEN 'appeared'
            WHEN x.template != y.template THEN 'direct'
            WHEN x.inputs != y.inputs THEN 'inherited'
            WHEN x.text != y.text OR x.ending != y.ending THEN 'noise'
            ELSE 'same'
        END AS change,
        x.request = y.request AS same_request,
        x.text = y.text AND x.ending = y.ending AS same_answer,
        x.seq AS seq_a,
        y.seq AS seq_b
    FROM (FROM diff_said WHERE side = 'a') x
    FULL JOIN (FROM diff_said WHERE side = 'b') y USING (position, path, attempt)
) t
JOIN diff_pair p USING (position);

-- One row a fact and run: what the views after it are made of, and which they would else read from the logs three times.
CREATE OR REPLACE TEMP VIEW diff_fact AS
SELECT 'a' AS side, p.scene, p.position, e.seq, e.kind, e.payload FROM a.events e JOIN diff_pair p ON p.id = e.scene
WHERE e.kind IN (
    'RoleCast', 'ActionProposed', 'FeasibilityJudged', 'ActionNoticed', 'HarmNoted',
    'ResponseGiven', 'ResponseRevised', 'ResponseKept', 'SimulationEnded', 'SceneFinished'
)
UNION ALL
SELECT 'b', p.scene, p.position, e.seq, e.kind, e.payload FROM b.events e JOIN diff_pair p ON p.id = e.scene
WHERE e.kind IN (
    'RoleCast', 'ActionProposed', 'FeasibilityJudged', 'ActionNoticed', 'HarmNoted',
    'ResponseGiven', 'ResponseRevised', 'ResponseKept', 'SimulationEnded', 'SceneFinished'
);

-- One row a role of either cast.
CREATE OR REPLACE TEMP VIEW diff_role AS
SELECT
    any_value(scene) AS scene,
    position,
    role,
    any_value(rank) FILTER (side = 'a') AS rank_a,
    any_value(rank) FILTER (side = 'b') AS rank_b,
    CASE WHEN rank_a IS NULL THEN 'added' WHEN rank_b IS NULL THEN 'removed' WHEN rank_a != rank_b THEN 'moved' ELSE 'same' END AS change
FROM (
    SELECT side, scene, position, payload ->> 'role' AS role, (payload ->> 'rank')::UINTEGER AS rank FROM diff_fact WHERE kind = 'RoleCast'
)
GROUP BY position, role;

-- One row an action and run. Recipients are sorted: the order of the cast says nothing about who noticed.
CREATE OR REPLACE TEMP VIEW diff_act AS
SELECT
    side,
    position,
    field[1] AS action,
    any_value(field[2]) FILTER (kind = 'ActionProposed') AS role,
    any_value(field[3]::UINTEGER) FILTER (kind = 'ActionProposed') AS rank,
    any_value(field[4]::UINTEGER) FILTER (kind = 'ActionProposed') AS step,
    any_value(field[5]::UINTEGER) FILTER (kind = 'ActionProposed') AS depth,
    any_value(field[6]::BOOLEAN) FILTER (kind = 'FeasibilityJudged') AS feasible,
    list_sort(from_json(any_value(field[7]) FILTER (kind = 'ActionNoticed'), '["VARCHAR"]')) AS recipients,
    any_value(field[8]::UINTEGER) FILTER (kind = 'HarmNoted') AS severity,
    any_value(field[9]) FILTER (kind = 'HarmNoted') AS critique
FROM (
    SELECT
        side,
        position,
        kind,
        json_extract_string(
            payload, ['$.action', '$.role', '$.rank', '$.step', '$.depth', '$.feasible', '$.recipients', '$.severity', '$.text']
        ) AS field
    FROM diff_fact WHERE kind IN ('ActionProposed', 'FeasibilityJudged', 'ActionNoticed', 'HarmNoted')
)
GROUP BY side, position, action;

-- One row an action of either run. What was judged in both and came out otherwise is a flipped verdict.
CREATE OR REPLACE TEMP VIEW diff_action AS
SELECT
    p.scene,
    position,
    action,
    coalesce(x.step, y.step) AS step,
    coalesce(x.depth, y.depth) AS depth,
    coalesce(x.role, y.role) AS role,
    coalesce(x.rank, y.rank) AS rank,
    x.action IS NOT NULL AS in_a,
    y.action IS NOT NULL AS in_b,
    x.feasible AS feasible_a,
    y.feasible AS feasible_b,
    CASE WHEN x.feasible AND NOT y.feasible THEN 'yes to no' WHEN NOT x.feasible AND y.feasible THEN 'no to yes' END AS flipped,
    x.recipients AS recipients_a,
    y.recipients AS recipients_b,
    x.recipients != y.recipients AS recipients_changed,
    x.severity AS severity_a,
    y.severity AS severity_b,
    x.critique AS critique_a,
    y.critique AS critique_b,
    CASE
        WHEN x.critique IS NULL AND y.critique IS NULL THEN NULL
        WHEN x.critique IS NULL THEN 'added'
        WHEN y.critique IS NULL THEN 'removed'
        WHEN x.severity < y.severity THEN 'raised'
        WHEN x.severity > y.severity THEN 'lowered'
        WHEN x.critique != y.critique THEN 'reworded'
        ELSE 'same'
    END AS critique
FROM (FROM diff_act WHERE side = 'a') x
FULL JOIN (FROM diff_act WHERE side = 'b') y USING (position, action)
JOIN diff_pair p USING (position);

-- One row a scene and run: what came of it.
CREATE OR REPLACE TEMP VIEW diff_end AS
SELECT
    side,
    position,
    arg_max(field[1], seq) FILTER (kind = 'ResponseGiven') AS response,
    arg_max(field[1], seq) FILTER (kind = 'ResponseRevised') AS revision,
    bool_or(kind = 'ResponseKept') FILTER (kind IN ('ResponseKept', 'ResponseRevised')) AS kept,
    any_value(field[2]) FILTER (kind = 'SimulationEnded') AS end_reason,
    any_value(field[3]::UINTEGER) FILTER (kind = 'SimulationEnded') AS steps,
    any_value(field[4]::UINTEGER) FILTER (kind = 'SimulationEnded') AS interactions,
    any_value(field[5]) FILTER (kind = 'SceneFinished') AS state
FROM (
    SELECT side, position, seq, kind, json_extract_string(payload, ['$.text', '$.reason', '$.steps', '$.interactions', '$.end']) AS field
    FROM diff_fact WHERE kind IN ('ResponseGiven', 'ResponseRevised', 'ResponseKept', 'SimulationEnded', 'SceneFinished')
)
GROUP BY side, position;

-- One row a scene that parts: the first turn, in the order of events, that was answered otherwise or is in one run only. Whose turn it
-- is, where it is a role's or about what a role does: `rank` 0 is the ego.
CREATE OR REPLACE TEMP VIEW diff_parting AS
SELECT f.scene, f.position, f.path, f.attempt, f.kind, f.change, f.step, coalesce(f.named, r.role) AS role, coalesce(r.rank_a, r.rank_b) AS rank
FROM (
    SELECT
        scene,
        position,
        first.*,
        nullif(regexp_extract(first.path, '^step/([0-9]+)/', 1), '')::UINTEGER AS step,
        nullif(regexp_extract(first.path, '^(?:cast/profile|step/[0-9]+/react)/([^/]+)', 1), '') AS named,
        regexp_matches(first.path, '^step/[0-9]+/act(/|$)') AS ego
    FROM (
        SELECT
            any_value(scene) AS scene,
            position,
            -- Of two events in one place, that of A.
            arg_min({'path': path, 'attempt': attempt, 'kind': kind, 'change': change}, 2 * least(seq_a, seq_b) + (seq_a IS NULL)::INTEGER)
                AS first
        FROM diff_turn
        WHERE same_answer IS DISTINCT FROM true
        GROUP BY position
    )
) f
LEFT JOIN diff_role r ON r.position = f.position AND (r.role = f.named OR f.ego AND coalesce(r.rank_a, r.rank_b) = 0 AND r.change != 'added');

-- One row a scene, kind of turn and change: how many turns, and how many of them were answered otherwise.
CREATE OR REPLACE TEMP VIEW diff_count AS
SELECT position, kind, change, count(*) AS turns, count(*) FILTER (NOT same_answer) AS other_answers,
    count(*) FILTER (change = 'noise' AND same_request) AS same_request
FROM diff_turn
GROUP BY position, kind, change;

-- One row a scene, what its verdicts and critiques came to in each run.
CREATE OR REPLACE TEMP VIEW diff_measure AS
SELECT
    side,
    position,
    count(*) FILTER (NOT feasible) / nullif(count(feasible), 0) AS rejected,
    count(critique) AS critiques,
    avg(severity) AS severity,
    coalesce(max(severity), 0) AS worst
FROM diff_act
GROUP BY side, position;

-- One row a scene: what came of it in each run, where they part, and how often what differs.
CREATE OR REPLACE TEMP VIEW diff_scene AS
SELECT
    p.scene,
    position,
    x.state AS state_a,
    y.state AS state_b,
    x.end_reason AS end_reason_a,
    y.end_reason AS end_reason_b,
    x.steps AS steps_a,
    y.steps AS steps_b,
    x.interactions AS interactions_a,
    y.interactions AS interactions_b,
    x.kept AS kept_a,
    y.kept AS kept_b,
    x.revision AS revision_a,
    y.revision AS revision_b,
    f.path AS parting_path,
    f.attempt AS parting_attempt,
    f.kind AS parting_kind,
    f.change AS parting_change,
    f.step AS parting_step,
    f.role AS parting_role,
    f.rank AS parting_rank,
    (f.path IS NOT NULL)::INTEGER AS parted,
    coalesce(t.other_answers, 0) AS other_answers,
    coalesce(t.direct, 0) AS direct,
    coalesce(t.inherited, 0) AS inherited,
    coalesce(t.noise, 0) AS noise,
    coalesce(t.appeared, 0) AS appeared,
    coalesce(t.disappeared, 0) AS disappeared,
    coalesce(r.added, 0) AS roles_added,
    coalesce(r.removed, 0) AS roles_removed,
    coalesce(c.to_no, 0) AS verdicts_to_no,
    coalesce(c.to_yes, 0) AS verdicts_to_yes,
    coalesce(c.recipients, 0) AS recipients_changed,
    coalesce(c.added, 0) AS critiques_added,
    coalesce(c.removed, 0) AS critiques_removed,
    coalesce(c.severity, 0) AS severities_changed,
    (x.response IS DISTINCT FROM y.response)::INTEGER AS response_changed,
    coalesce(x.revision != y.revision, false)::INTEGER AS revision_changed,
    coalesce(x.kept AND y.revision IS NOT NULL, false)::INTEGER AS kept_to_revised,
    coalesce(x.revision IS NOT NULL AND y.kept, false)::INTEGER AS revised_to_kept,
    (x.end_reason IS DISTINCT FROM y.end_reason)::INTEGER AS end_changed,
    (x.state != y.state)::INTEGER AS state_changed,
    m.rejected AS rejected_a,
    n.rejected AS rejected_b,
    if(x.end_reason IS NULL, NULL, coalesce(m.critiques, 0)) AS critiques_a,
    if(y.end_reason IS NULL, NULL, coalesce(n.critiques, 0)) AS critiques_b,
    m.severity AS severity_a,
    n.severity AS severity_b,
    if(x.end_reason IS NULL, NULL, coalesce(m.worst, 0)) AS worst_a,
    if(y.end_reason IS NULL, NULL, coalesce(n.worst, 0)) AS worst_b
FROM diff_pair p
JOIN (FROM diff_end WHERE side = 'a') x USING (position)
JOIN (FROM diff_end WHERE side = 'b') y USING (position)
LEFT JOIN diff_parting f USING (position)
LEFT JOIN (
    SELECT
        position,
        sum(other_answers) AS other_answers,
        sum(turns) FILTER (change = 'direct') AS direct,
        sum(turns) FILTER (change = 'inherited') AS inherited,
        sum(turns) FILTER (change = 'noise') AS noise,
        sum(turns) FILTER (change = 'appeared') AS appeared,
        sum(turns) FILTER (change = 'disappeared') AS disappeared
    FROM diff_count GROUP BY position
) t USING (position)
LEFT JOIN (
    SELECT position, count(*) FILTER (change = 'added') AS added, count(*) FILTER (change = 'removed') AS removed
    FROM diff_role GROUP BY position
) r USING (position)
LEFT JOIN (
    SELECT
        position,
        count(*) FILTER (flipped = 'yes to no') AS to_no,
        count(*) FILTER (flipped = 'no to yes') AS to_yes,
        count(*) FILTER (recipients_changed) AS recipients,
        count(*) FILTER (critique = 'added') AS added,
        count(*) FILTER (critique = 'removed') AS removed,
        count(*) FILTER (critique IN ('raised', 'lowered')) AS severity
    FROM diff_action GROUP BY position
) c USING (position)
LEFT JOIN (FROM diff_measure WHERE side = 'a') m USING (position)
LEFT JOIN (FROM diff_measure WHERE side = 'b') n USING (position);

-- One row a scene and level: what is counted or measured in each run by itself.
CREATE OR REPLACE TEMP VIEW diff_level AS
SELECT scene, unnest(levels, recursive := true)
FROM (
    SELECT
        scene,
        [
            {'figure': 'rejected', 'value_a': rejected_a::DOUBLE, 'value_b': rejected_b::DOUBLE},
            {'figure': 'interactions', 'value_a': interactions_a::DOUBLE, 'value_b': interactions_b::DOUBLE},
            {'figure': 'critiques', 'value_a': critiques_a::DOUBLE, 'value_b': critiques_b::DOUBLE},
            {'figure': 'severity', 'value_a': severity_a, 'value_b': severity_b},
            {'figure': 'worst', 'value_a': worst_a::DOUBLE, 'value_b': worst_b::DOUBLE},
            {'figure': 'kept', 'value_a': kept_a::INTEGER::DOUBLE, 'value_b': kept_b::INTEGER::DOUBLE},
            {'figure': 'revision_characters', 'value_a': length(revision_a)::DOUBLE, 'value_b': length(revision_b)::DOUBLE}
        ] AS levels
    FROM diff_scene
);

-- One row a scene and figure that it has: a count of what differs, or B - A of a level that both have.
CREATE OR REPLACE TEMP VIEW diff_value AS
SELECT scene, figure, value
FROM (
    UNPIVOT (
        SELECT scene, COLUMNS([
            'parted', 'other_answers', 'direct', 'inherited', 'noise', 'appeared', 'disappeared', 'roles_added', 'roles_removed',
            'verdicts_to_no', 'verdicts_to_yes', 'recipients_changed', 'critiques_added', 'critiques_removed', 'severities_changed',
            'response_changed', 'revision_changed', 'kept_to_revised', 'revised_to_kept', 'end_changed', 'state_changed'
        ])::DOUBLE
        FROM diff_scene
    ) ON * EXCLUDE (scene) INTO NAME figure VALUE value
)
UNION ALL
SELECT scene, figure, value_b - value_a FROM diff_level WHERE value_a IS NOT NULL AND value_b IS NOT NULL;

-- One row a figure: its mean over the scenes that have it, and the standard error of that mean.
CREATE OR REPLACE TEMP VIEW diff_figure AS
SELECT figure, count(*) AS scenes, sum(value) AS total, avg(value) AS mean, stddev_samp(value) / sqrt(count(*)) AS error
FROM diff_value
GROUP BY figure;
