-- Whose actions are judged impossible, by role, step and category of the instruction, and how near the threshold?
-- $category = "category": column of the input that tells categories apart; where there is none, the input's name does
-- $near = 1.0: a verdict is near the threshold if its log-odds, yes against no, are nearer to 0 than this
-- $most = 50: rows at most
SELECT
    lower(a.role) AS role,
    a.step,
    s.category,
    count(*) AS actions,
    count(*) FILTER (NOT a.feasible) AS rejected,
    round(rejected / actions, 3) AS share,
    round(avg(a.log_odds), 2) AS log_odds,
    count(*) FILTER (abs(a.log_odds) < $near) AS near
FROM action a
JOIN (SELECT lower(hex(scene)) AS scene, coalesce(meta ->> $category::VARCHAR, label) AS category FROM scenes) s USING (scene)
WHERE a.feasible IS NOT NULL
GROUP BY ALL
ORDER BY rejected DESC, share DESC, role, a.step, s.category
LIMIT $most
