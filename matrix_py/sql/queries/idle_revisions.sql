-- Which revisions leave the response as it was, or speak of the simulation?
-- `leak` rests on labels: run `matrix label` first.
WITH passed_over AS (
    SELECT scene, path, attempt FROM flaw GROUP BY ALL HAVING bool_or(policy IN ('retried', 'passed_over')) AND NOT bool_or(policy = 'kept')
),
leaks AS (
    SELECT DISTINCT scene FROM label ANTI JOIN passed_over USING (scene, path, attempt) WHERE label = 'leak' AND path = 'revise'
),
revised AS (
    SELECT
        position,
        scene,
        lower(regexp_replace(trim(revision), '\s+', ' ', 'g')) = lower(regexp_replace(trim(response), '\s+', ' ', 'g')) AS unchanged,
        scene IN (FROM leaks) AS leak,
        length(response) AS response,
        length(revision) AS revision
    FROM scene WHERE revision IS NOT NULL
)
FROM revised WHERE unchanged OR leak ORDER BY position
