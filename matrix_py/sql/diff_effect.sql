-- What differs between A and B beside what differs between A and A2, another run of A's configuration: run it after diff.sql, with `b` the
-- log of B, where `null_value` and `null_level` hold what diff_value and diff_level said when `b` was the log of A2.

-- One row a figure, over the scenes that have it in both comparisons. The effect is the mean of what a scene has in the one less what it
-- has in the other; errors are standard errors of means.
CREATE OR REPLACE TEMP VIEW diff_effect AS
SELECT
    figure,
    count(*) AS scenes,
    sum(d.value) AS total,
    avg(d.value) AS mean,
    stddev_samp(d.value) / sqrt(count(*)) AS error,
    sum(n.value) AS null_total,
    avg(n.value) AS null_mean,
    stddev_samp(n.value) / sqrt(count(*)) AS null_error,
    avg(d.value - n.value) AS effect,
    stddev_samp(d.value - n.value) / sqrt(count(*)) AS effect_error
FROM diff_value d
JOIN null_value n USING (scene, figure)
GROUP BY figure;
