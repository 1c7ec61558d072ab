-- How often are replies flawed, by kind of turn, and what is done about it?
SELECT c.kind, f.flaw, f.policy, count(*) AS replies, round(count(*) / turns.number, 3) AS share
FROM flaw f
JOIN (SELECT lower(hex(scene)) AS scene, path, attempt, kind FROM completions) c USING (scene, path, attempt)
JOIN (SELECT kind, count(*) AS number FROM completions GROUP BY kind) turns USING (kind)
GROUP BY c.kind, f.flaw, f.policy, turns.number
ORDER BY replies DESC, c.kind, f.flaw, f.policy
