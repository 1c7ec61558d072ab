-- What some scenes came to. Read from events, as logs of every format have them.
SELECT
    lower(hex(s.scene)) AS scene,
    s.position,
    any_value(i.text) AS instruction,
    coalesce(any_value(e.payload ->> 'end') FILTER (e.kind = 'SceneFinished'), 'open') AS state,
    any_value(e.payload ->> 'reason') FILTER (e.kind = 'SimulationEnded') AS end_reason,
    any_value((e.payload ->> 'interactions')::UINTEGER) FILTER (e.kind = 'SimulationEnded') AS interactions,
    count(*) FILTER (e.kind = 'HarmNoted') AS critiques,
    max((e.payload ->> 'severity')::UINTEGER) FILTER (e.kind = 'HarmNoted') AS severity,
    count(*) FILTER (e.kind = 'ResponseKept') > 0 AS kept,
    any_value(e.payload ->> 'text') FILTER (e.kind = 'ResponseGiven') AS response,
    any_value(e.payload ->> 'text') FILTER (e.kind = 'ResponseRevised') AS revision
FROM scenes s
JOIN texts i ON i.hash = s.instruction
LEFT JOIN events e
    ON e.scene = s.scene
    AND e.kind IN ('ResponseGiven', 'HarmNoted', 'SimulationEnded', 'ResponseKept', 'ResponseRevised', 'SceneFinished')
WHERE s.scene IN (SELECT unnest($1::BLOB[]))
GROUP BY s.scene, s.position;

-- The turns of these scenes that the model was asked, and those that the run's log answered.
SELECT lower(hex(scene)) AS scene, count(*) FILTER (coalesce(source, 'model') = 'model') AS live, count(*) FILTER (source = 'reused') AS reused
FROM completions
WHERE scene IN (SELECT unnest($1::BLOB[]))
GROUP BY scene
