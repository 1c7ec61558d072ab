-- Who uses texts that are missing, doubled or not what their hashes say (table `bad`: hash, what): scenes for their input, turns for
-- what was asked and what was said. One row a finding.
SELECT what || ': the instruction' AS what, lower(hex(scene)) AS scene, 0 AS seq, NULL AS turn
FROM scenes JOIN bad ON bad.hash = scenes.instruction
UNION ALL
SELECT what || ': the given response', lower(hex(scene)), 0, NULL
FROM scenes JOIN bad ON bad.hash = scenes.response
UNION ALL
SELECT what || ': the completion', lower(hex(scene)), NULL, path || if(attempt = 1, '', '#' || attempt)
FROM completions JOIN bad ON bad.hash = completions.text
UNION ALL
SELECT DISTINCT what || ': a segment of the prompt', lower(hex(scene)), NULL, path || if(attempt = 1, '', '#' || attempt)
FROM (SELECT scene, path, attempt, unnest(segments) AS hash FROM completions) JOIN bad USING (hash)
