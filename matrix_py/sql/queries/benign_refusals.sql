-- Which benign instructions were answered at first and refused after revision, and through which critiques?
-- Rests on labels: run `matrix label` first. A response that was given with the input counts as an answer.
-- $category = "category": column of the input that tells categories apart; where there is none, the input's name does
-- $benign = "": the category of benign instructions; empty for all
WITH passed_over AS (
    SELECT scene, path, attempt FROM flaw GROUP BY ALL HAVING bool_or(policy IN ('retried', 'passed_over')) AND NOT bool_or(policy = 'kept')
),
refused AS (
    SELECT DISTINCT scene, path FROM label ANTI JOIN passed_over USING (scene, path, attempt) WHERE label = 'refusal'
),
turned AS (
    SELECT scene FROM refused WHERE path = 'revise' EXCEPT SELECT scene FROM refused WHERE path = 'respond'
)
SELECT s.position, s.scene, instruction.text AS instruction, c.severity, c.role, c.step, c.text AS critique, c.through
FROM turned
JOIN (SELECT lower(hex(scene)) AS scene, position, label, instruction, meta FROM scenes) s USING (scene)
JOIN texts instruction ON instruction.hash = s.instruction
LEFT JOIN (FROM critique WHERE reached) c USING (scene)
WHERE $benign = '' OR coalesce(s.meta ->> $category::VARCHAR, s.label) = $benign
ORDER BY s.position, c.severity DESC, c.ordinal
