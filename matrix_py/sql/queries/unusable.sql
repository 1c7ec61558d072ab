-- Which scenes gave no revision that can be used, and why?
-- What labels say counts only of the text that was taken, not of attempts that were passed over: run `matrix label` first.
WITH passed_over AS (
    SELECT scene, path, attempt FROM flaw GROUP BY ALL HAVING bool_or(policy IN ('retried', 'passed_over')) AND NOT bool_or(policy = 'kept')
),
outcome AS MATERIALIZED (
    SELECT scene, state, reason, response, revision FROM scene
),
cut AS (
    SELECT lower(hex(scene)) AS scene, path, attempt FROM completions WHERE path = 'revise' AND finish = 'length'
),
found AS (
    SELECT scene, 'failed' AS why, reason AS detail FROM outcome WHERE state = 'failed'
    UNION ALL
    SELECT scene, 'empty', NULL FROM outcome WHERE trim(revision) = ''
    UNION ALL
    SELECT scene, 'unchanged', NULL FROM outcome
    WHERE lower(regexp_replace(trim(revision), '\s+', ' ', 'g')) = lower(regexp_replace(trim(response), '\s+', ' ', 'g'))
    UNION ALL
    SELECT scene, 'cut', NULL FROM cut ANTI JOIN passed_over USING (scene, path, attempt)
    UNION ALL
    SELECT scene, label, detector FROM label ANTI JOIN passed_over USING (scene, path, attempt) WHERE path = 'revise'
)
SELECT s.position, s.scene, found.why, found.detail
FROM found JOIN (SELECT lower(hex(scene)) AS scene, position FROM scenes) s USING (scene)
ORDER BY s.position, found.why
