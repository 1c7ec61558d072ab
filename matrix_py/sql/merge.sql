-- From `source.scene` (every scene of every log: which log, its position there, the hash of its last event if it is finished, its completions):
-- each scene once, from a log where it is finished, else from the one that holds most of it, at the place where it comes up first.
CREATE TABLE source.chosen AS
SELECT scene, log, row_number() OVER (ORDER BY first.log, first.position) - 1 AS position
FROM (
    SELECT scene, log, min({'log': log, 'position': position}) OVER (PARTITION BY scene) AS first
    FROM source.scene
    QUALIFY row_number() OVER (PARTITION BY scene ORDER BY last IS NULL, CASE WHEN last IS NULL THEN -num_completions ELSE 0 END, log) = 1
)
