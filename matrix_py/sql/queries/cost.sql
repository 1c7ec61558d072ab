-- Where did tokens and seconds go, by kind of turn, and how much of the prompts was in KV already?
SELECT
    if(grouping(kind) = 1, 'all', kind) AS kind,
    count(*) AS turns,
    sum(prompt_tokens)::BIGINT AS prompt_tokens,
    round(sum(cached_tokens) / nullif(sum(prompt_tokens), 0), 3) AS cached,
    sum(generated_tokens)::BIGINT AS generated_tokens,
    round(sum(queued_us) / 1e6, 1) AS queued_s,
    round(sum(prefill_us) / 1e6, 1) AS prefill_s,
    round(sum(decode_us) / 1e6, 1) AS decode_s
FROM completions
GROUP BY ROLLUP (kind)
ORDER BY grouping(kind), sum(prompt_tokens) - sum(cached_tokens) + sum(generated_tokens) DESC, kind
