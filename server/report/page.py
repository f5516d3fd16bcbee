"""The page of `server.report.build` as a Jinja2 template; in a module, since a Flower app bundle
takes no other text.
"""

PAGE = r"""
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ result.task }} · {{ result.run_id }}</title>
<style>
:root { color-scheme: light dark; --ink: #1a212c; --soft: #5a6472; --line: #d8dee7; --paper: #fff; --panel: #f4f6f9; --accent: #1f6fbf; --good: #17795e; --bad: #b3261e; --shade: rgb(20 30 50 / 28%); }
@media (prefers-color-scheme: dark) { :root { --ink: #e9edf3; --soft: #a0aab8; --line: #333b46; --paper: #12161c; --panel: #1b212a; --accent: #6cb0f2; --good: #5fd0ab; --bad: #ff8f85; --shade: rgb(150 180 220 / 34%); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.35rem, 1rem + 1.6vw, 1.9rem); line-height: 1.28; margin: 0.5rem 0 0.6rem; font-weight: 650; letter-spacing: -0.012em; text-wrap: balance; max-width: 48rem; }
h2 { font-size: 1.15rem; margin: 3rem 0 0.4rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { margin: 0.4rem 0; max-width: 44rem; }
.kicker, .note, figcaption { color: var(--soft); font-size: 0.9rem; max-width: 46rem; }
.kicker { max-width: none; overflow-wrap: anywhere; }
.verdict { font-size: 1.05rem; }
.status { display: inline-block; padding: 0 0.6rem; margin-left: 0.3rem; border-radius: 1rem; border: 1px solid currentColor; color: var(--soft); }
.status.good { color: var(--good); }
.status.bad { color: var(--bad); }
.error { border-left: 4px solid var(--bad); background: var(--panel); padding: 0.7rem 1rem; margin: 1rem 0; overflow-wrap: anywhere; max-width: none; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.8rem, 1fr)); gap: 0.6rem; margin: 1.4rem 0 0; }
.facts div { background: var(--panel); border-radius: 0.5rem; padding: 0.6rem 0.85rem; display: flex; flex-direction: column; margin: 0; }
.facts dd { margin: 0; font-size: 1.2rem; white-space: nowrap; font-weight: 620; font-variant-numeric: tabular-nums; order: -1; }
.facts dt { color: var(--soft); font-size: 0.85rem; line-height: 1.35; }
.wide { overflow-x: auto; margin-top: 0.8rem; background: linear-gradient(to right, var(--paper) 30%, transparent) 0 0 / 3rem 100% no-repeat local, linear-gradient(to left, var(--paper) 30%, transparent) 100% 0 / 3rem 100% no-repeat local, linear-gradient(to left, var(--shade), transparent) 100% 0 / 1.1rem 100% no-repeat scroll; }
.tall { max-height: 34rem; overflow-y: auto; } .tall thead th { position: sticky; top: 0; background: var(--paper); z-index: 2; }
.wide tr > th:first-child { position: sticky; left: 0; z-index: 1; background: var(--paper); } .tall thead th:first-child { z-index: 3; }
.wide tbody th:first-child { box-shadow: inset 0 -1px var(--line); } .wide table.heat tbody th:first-child { box-shadow: none; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: 0.42rem 0.7rem; border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400; }
th:first-child { text-align: left; padding-left: 0.2rem; }
tbody th { max-width: 19rem; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
thead th { color: var(--soft); vertical-align: bottom; }
thead th.name { min-width: 5.5rem; max-width: 9rem; white-space: normal; overflow-wrap: anywhere; }
tr.ours > * { font-weight: 680; }
td.bar { width: 30%; min-width: 8rem; }
td.bar span { display: block; height: 0.75rem; border-radius: 0 3px 3px 0; background: var(--soft); opacity: 0.6; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
tr.ours td.bar span { background: var(--accent); opacity: 1; }
td.fact, th.fact { text-align: left; padding-left: 0.45rem; padding-right: 0.45rem; font-size: 0.86rem; }
td.text, th.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
table.heat td { text-align: center; padding: 0.35rem 0.3rem; border: 2px solid var(--paper); min-width: 2.3rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; background: color-mix(in srgb, var(--accent) calc(var(--share) * 62%), var(--panel)); }
table.heat td.none { color: var(--soft); }
table.heat td.sum { background: none; text-align: right; color: var(--soft); }
table.heat th { border: 0; padding-top: 0.3rem; padding-bottom: 0.3rem; } table.heat thead th { text-align: center; }
table.heat thead th:first-child { text-align: left; } table.heat thead th:last-child { text-align: right; }
table.dense { font-size: 0.8rem; } table.dense th, table.dense td { padding-top: 0.1rem; padding-bottom: 0.1rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1rem 1.6rem; margin-top: 0.8rem; }
.panels > div { max-width: 34rem; }
figure { margin: 0; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; padding: 0; margin: 0.6rem 0; font-size: 0.88rem; }
.legend li { display: flex; align-items: center; gap: 0.45rem; overflow-wrap: anywhere; }
.legend svg { flex: none; }
.swatch { width: 0.85rem; height: 0.85rem; border-radius: 2px; flex: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
details { margin-top: 0.8rem; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--panel); padding: 0.8rem 1rem; border-radius: 0.5rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.86rem; }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
code { font-size: 0.88em; overflow-wrap: anywhere; }
a { color: var(--accent); }
.good { color: var(--good); } .bad { color: var(--bad); }
.again { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.25rem 1.2rem; font-size: 0.92rem; }
.again dt { color: var(--soft); } .again dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { main { padding-top: 1.25rem; } .again { grid-template-columns: minmax(0, 1fr); gap: 0; } .again dd { margin-bottom: 0.5rem; } tbody th { max-width: 9.5rem; min-width: 4.5rem; } td.bar { min-width: 4rem; } th, td { padding-left: 0.45rem; padding-right: 0.45rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --panel: #f4f6f9; --accent: #1f6fbf; --good: #17795e; --bad: #b3261e; --shade: transparent; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; } h2 { break-after: avoid; margin-top: 1.5rem; } figure, tr { break-inside: avoid; } .wide { overflow: visible; max-height: none; background: none; } .panels { grid-template-columns: 1fr 1fr; } }
</style>
</head>
<body>
<main>
<header>
<p class="kicker">{{ result.task }} · {{ result.strategy }} · {{ result.run_id }}{% if result.started %} · {{ result.started | replace("T", " ") | replace("+00:00", " UTC") }}{% endif %}

<span class="status{{ " bad" if result.status in ("failed", "interrupted") else " good" if result.status in ("finished", "stopped_early") else "" }}">{{ status }}</span></p>
<h1>{{ headline }}</h1>
{% if verdict %}<p class="verdict">{{ verdict }}</p>{% endif %}

{% if result.error %}<p class="error" role="alert"><strong>{{ result.error.get("code", "") }}</strong> {{ result.error.get("message", "") }}{% if resume %}<br>To resume it: <code>{{ resume }}</code>{% endif %}</p>
{% elif resume %}<p class="error">To resume it: <code>{{ resume }}</code></p>{% endif %}

<dl class="facts">
{% for name, value in facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
</header>

{% macro left_out(count, where) %}{% if count %}<p class="note">{{ "{:,}".format(count) }} more are left out here; {{ where }} holds them.</p>{% endif %}{% endmacro %}
{% macro models(rows, silos, metric, others) %}
<thead><tr><th scope="col">model</th><th scope="col" colspan="2">{{ metric }}, all silos</th>{% for name in others %}<th scope="col">{{ name }}</th>{% endfor %}{% for silo in silos %}<th scope="col" class="name">{{ silo }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr{% if row.ours %} class="ours"{% endif %}><th scope="row">{{ row.name }}</th><td class="bar"><span style="width: {{ "%.1f" % (100 * row.share) }}%"></span></td><td>{{ row.score }}</td>{% for value in row.others %}<td>{{ value }}</td>{% endfor %}{% for value in row.own %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
{% endmacro %}
{% if finals %}
{% set central = finals | selectattr("central", "ne", "–") | list %}
<section aria-labelledby="good">
<h2 id="good">How good it is</h2>
<div class="wide" tabindex="0" role="region" aria-label="The metrics at the end"><table>
<thead><tr><th scope="col">metric</th><th scope="col">all silos</th><th scope="col">worst silo</th><th scope="col">best silo</th>{% if central %}<th scope="col">the task's test set</th>{% endif %}<th scope="col" class="text"></th></tr></thead>
<tbody>{% for row in finals %}<tr{% if loop.first %} class="ours"{% endif %}><th scope="row">{{ row.name }}</th><td>{{ row.union }}</td><td>{{ row.worst }}</td><td>{{ row.best }}</td>{% if central %}<td>{{ row.central }}</td>{% endif %}<td class="text note">{{ row.direction }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="note">{{ where_final }}</p>{% if no_comparison %}<p class="note">{{ no_comparison }}</p>{% endif %}
</section>
{% endif %}

{% if comparison %}
<section aria-labelledby="worth">
<h2 id="worth">What the federation was worth</h2>
<p>Each model on the silos' {{ where_models }}, on which no model was trained and nothing was chosen: all of them together{% if comparison.silos %}, then each silo's own{% endif %}. Every model had the same budget of epochs.{% if comparison.less_is_better %} Lower {{ comparison.metric }} is better.{% endif %}</p>
<div class="wide" tabindex="0" role="region" aria-label="Models compared"><table>{{ models(comparison.shown, comparison.silos, comparison.metric, comparison.others) }}</table></div>
{% if comparison.folded %}<details><summary>{% if more.alone %}{{ comparison.folded | length }} of the silos alone{% else %}Each of the {{ comparison.folded | length }} silos alone{% endif %}</summary><div class="wide" tabindex="0" role="region" aria-label="Each silo alone"><table class="dense">{{ models(comparison.folded, [], comparison.metric, comparison.others) }}</table></div></details>
{{ left_out(more.alone, "result.json") }}
<p class="note">result.json also holds each model's metrics on each silo's own {{ where_models }}.</p>{% endif %}
</section>
{% endif %}

{% if trained %}
<section aria-labelledby="trained">
<h2 id="trained">What was trained</h2>
<dl class="again">
{% for what, how in trained %}<dt>{{ what }}</dt><dd>{{ how }}{% if what == "model" and "parameters" in result.model %}, {{ "{:,}".format(result.model.parameters) }} parameters{% endif %}</dd>
{% endfor %}
</dl>
</section>
{% endif %}

{% if curves %}
<section aria-labelledby="learned">
<h2 id="learned">How it learned</h2>
<figure aria-label="Metrics on {{ where_curves }}, round by round, of all silos' examples and of each silo's">
<div class="panels">{% for curve, alt in curves %}<div><div role="img" aria-label="{{ alt }}">{{ curve | safe }}</div></div>{% endfor %}</div>
<ul class="legend" aria-label="Lines">{% for name, line in legend %}<li><svg width="34" height="10" aria-hidden="true" style="stroke: {{ line.page_colour }}; fill: {{ line.page_colour }}"{% if line.width > 8 %} opacity="0.3"{% endif %}><line x1="0" x2="34" y1="5" y2="5" stroke-width="{{ line.width }}"{% if line.dash_array %} stroke-dasharray="{{ line.dash_array }}"{% endif %}/>{% if line.marker == "o" %}<circle cx="17" cy="5" r="2.5"/>{% elif line.marker %}<rect x="14.5" y="2.5" width="5" height="5"/>{% endif %}</svg>{{ name }}</li>{% endfor %}</ul>
<figcaption>Each silo's curve is the federated model's metric on that silo's own {{ where_curves }}, the thick one on all of them together.{% if comparison %} The lines across are the other models, on the {{ where_models }}.{% endif %}{% if spread %} Of so many silos only the range is drawn.{% endif %}{% if curve_step > 1 %} Each point is the mean of {{ curve_step }} rounds{% if spread %}, and the range is that of all of them{% endif %}.{% endif %}</figcaption></figure>
</section>
{% endif %}

{% if partition %}
<section aria-labelledby="who">
<h2 id="who">Who has which examples</h2>
<p class="note">Training examples of each class at each silo; the stronger the colour, the more. Only a machine that sees all data can count them: a simulation.</p>
<div class="wide{{ " tall" if partition | length > 20 else "" }}" tabindex="0" role="region" aria-label="Training examples of each class at each silo"><table class="heat{{ " dense" if partition | length > 20 else "" }}">
<thead><tr><th scope="col">silo</th>{% for name in result.classes %}<th scope="col">{{ name }}</th>{% endfor %}<th scope="col">sum</th></tr></thead>
<tbody>{% for silo, cells, total in partition %}<tr><th scope="row">{{ silo }}</th>{% for count, share in cells %}<td style="--share: {{ share }}"{% if count == 0 %} class="none"{% endif %}>{{ "{:,}".format(count) }}</td>{% endfor %}<td class="sum">{{ "{:,}".format(total) }}</td></tr>
{% endfor %}</tbody></table></div>
{{ left_out(more.partition, "result.json") }}
</section>
{% endif %}

{% if costs %}
<section aria-labelledby="cost">
<h2 id="cost">What it cost</h2>
<figure aria-label="Seconds and bytes of each round">
<div class="panels">
<div><div role="img" aria-label="{{ costs[0][1] }}">{{ costs[0][0] | safe }}</div><ul class="legend"><li><span class="swatch" style="background: #3d8fd9"></span>training, slowest silo</li><li><span class="swatch" style="background: #dd8433"></span>waiting, transfer, evaluation</li></ul></div>
<div><div role="img" aria-label="{{ costs[1][1] }}">{{ costs[1][0] | safe }}</div><ul class="legend"><li><span class="swatch" style="background: #7f83ec"></span>to the silos</li><li><span class="swatch" style="background: #2fa384"></span>from the silos</li></ul></div>
</div>{% if cut %}<figcaption>{{ cut }}</figcaption>{% endif %}{% if bar_step > 1 %}<figcaption>Each bar is the mean of {{ bar_step }} rounds; history.jsonl holds each round.</figcaption>{% endif %}</figure>
{% macro who_did_what() %}<div class="wide" tabindex="0" role="region" aria-label="Each silo's part"><table{% if silo_rows | length > 20 %} class="dense"{% endif %}>
<thead><tr><th scope="col">silo</th><th scope="col">answered</th><th scope="col">examples</th><th scope="col">share</th><th scope="col">training</th><th scope="col">sent</th><th scope="col">update norm</th>{% for name in result.shown %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in silo_rows %}<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div><p class="note">Rounds answered of those asked; examples to train on, and their share of all silos'; training: seconds a round, median; update norm: the length of its updates, median; metrics: after its last round, on its own {{ where_curves }}.</p>{{ left_out(more.silos, "history.jsonl") }}{% endmacro %}
{% if silo_rows | length > 20 %}<details><summary>{% if more.silos %}The {{ silo_rows | length }} silos that missed most rounds{% else %}Each of the {{ silo_rows | length }} silos{% endif %}</summary>{{ who_did_what() }}</details>{% else %}{{ who_did_what() }}{% endif %}

</section>
{% endif %}

{% if failures %}
<section aria-labelledby="failed">
<h2 id="failed">What failed</h2>
<div class="wide{{ " tall" if failures | length > 20 else "" }}" tabindex="0" role="region" aria-label="Failures"><table{% if failures | length > 20 %} class="dense"{% endif %}><thead><tr><th scope="col">silo</th><th scope="col" class="fact">code</th><th scope="col" class="text">reason</th><th scope="col" class="text">rounds</th></tr></thead>
<tbody>{% for failure in failures %}<tr><th scope="row">{{ failure.silo }}</th><td class="fact">{{ failure.code }}</td><td class="text reason">{{ failure.reason }}</td><td class="text">{{ failure.rounds }}</td></tr>
{% endfor %}</tbody></table></div>
{{ left_out(more.failures, "history.jsonl") }}
</section>
{% endif %}

{% if result.software %}
<section aria-labelledby="software">
<h2 id="software">What the silos ran</h2>
{% if mixed_software %}<p class="note">{{ mixed_software }}</p>{% endif %}

<div class="wide" tabindex="0" role="region" aria-label="What the silos ran"><table><thead><tr><th scope="col">silos</th>{% for title in software[0] %}<th scope="col" class="fact">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in software[1] %}<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td class="fact">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="note">As each silo said last; nothing of it is proven.</p>
</section>
{% endif %}

<section aria-labelledby="again">
<h2 id="again">How to do it again</h2>
{% if result.command %}<pre>{{ result.command }}</pre>{% endif %}

<dl class="again">
<dt>run</dt><dd><code>{{ result.run_id }}</code>, mode {{ result.mode }}{% if result.engine %}, engine {{ result.engine }}{% endif %}, seed {{ result.seed }}</dd>
<dt>model</dt><dd>{% if result.model %}<code>{{ result.model.get("path", "") }}</code>, {{ "{:,}".format(result.model.get("parameters", 0)) }} parameters, digest of its tensors <code>{{ result.model.get("digest", "") }}</code>, SHA-256 of the file <code>{{ result.model.get("sha256", "") }}</code>{% else %}none was written{% endif %}</dd>
{% if files %}<dt>files beside this page</dt><dd>{% for name in files %}<a href="{{ name }}">{{ name }}</a>{{ ", " if not loop.last }}{% endfor %}</dd>{% endif %}

<dt>configuration</dt><dd>config.yaml{% if result.config_digest %}; SHA-256 of what travelled <code>{{ result.config_digest }}</code>{% endif %}</dd>
{% if result.environment.get("code") %}<dt>code</dt><dd>digest of what must agree <code>{{ result.environment.code }}</code>{% if result.environment.get("tree") %}, of all that is installed at the server <code>{{ result.environment.tree }}</code>{% endif %}{% if result.environment.get("strategy_file") %}, of the strategy's file <code>{{ result.environment.strategy_file }}</code>{% endif %}</dd>{% endif %}

{% if result.ledger %}<dt>ledger</dt><dd>ledger.jsonl, anchor <code>{{ result.ledger }}</code></dd>{% endif %}

{% if audit %}<dt>verification</dt><dd>when this page was written: <strong class="{{ "bad" if audit.faults else "good" }}">{{ audit }}</strong>. Beside what the silos kept: <code>meadow report run={{ known_as }} --verify anchors=FILE,FILE</code></dd>{% endif %}

{% if result.privacy %}<dt>privacy</dt><dd>{% for name, value in result.privacy.items() %}{{ name }} {{ value }}{{ ", " if not loop.last }}{% endfor %}</dd>{% endif %}

{% if result.mlflow_run_id %}<dt>MLflow run</dt><dd><code>{{ result.mlflow_run_id }}</code></dd>{% endif %}

<dt>versions</dt><dd>{% for name, version in result.environment.get("versions", {}).items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% else %}not recorded{% endfor %}</dd>
{% if result.environment.get("platform") %}<dt>machine</dt><dd>{{ result.environment.platform }}, {{ result.environment.get("cores", "?") }} cores, {{ result.environment.get("devices", []) | join(", ") }}</dd>{% endif %}

</dl>
</section>
</main>
</body>
</html>
"""
