"""The page of `server.report` as a Jinja2 template; in a module, since a Flower app bundle takes no other text."""

PAGE = r"""
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ result.task }} · {{ result.run_id }}</title>
<style>
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6472; --line: #d9dee6; --paper: #ffffff; --panel: #f5f7fa; --accent: #1f6fbf; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf2; --soft: #9aa4b2; --line: #30363f; --paper: #12161c; --panel: #1a2028; --accent: #6cb0f2; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.3; margin: 0.25rem 0 0.75rem; font-weight: 650; text-wrap: balance; }
h2 { font-size: 1.1rem; margin: 2.75rem 0 0.5rem; padding-top: 0.9rem; border-top: 1px solid var(--line); }
p { margin: 0.5rem 0; max-width: 44rem; }
.kicker, .note { color: var(--soft); }
.kicker { font-size: 0.9rem; letter-spacing: 0.01em; }
.note { font-size: 0.9rem; }
.status { display: inline-block; padding: 0 0.55rem; border-radius: 1rem; background: var(--panel); border: 1px solid var(--line); font-size: 0.85rem; }
.status.bad { color: var(--bad); border-color: currentColor; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 0.75rem; margin: 1.25rem 0; }
.facts div { background: var(--panel); border-radius: 0.5rem; padding: 0.7rem 0.9rem; }
.facts b { display: block; font-size: 1.35rem; font-weight: 620; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 0.85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.93rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: 0.4rem 0.7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 500; }
tr.us td, tr.us th { font-weight: 650; background: var(--panel); }
td.reason { white-space: normal; text-align: left; }
figure { margin: 0.75rem 0 0; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.25rem; }
svg { max-width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
pre { background: var(--panel); padding: 0.8rem 1rem; border-radius: 0.5rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.86rem; }
code { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; font-size: 0.9em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.2rem; font-size: 0.93rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<p class="kicker">{{ result.task }} · {{ result.strategy }} · {{ result.silos | length }} silos · {{ result.started | replace("T", " ") | replace("+00:00", " UTC") }}
<span class="status{{ ' bad' if result.status in ('failed', 'interrupted') else '' }}">{{ status }}</span></p>
<h1>{{ headline }}</h1>
{% if result.error %}<p class="note">{{ result.error.code }}: {{ result.error.message }}</p>{% endif %}

<div class="facts">
<div><b>{{ result.rounds | length }}</b><span>rounds</span></div>
{% for name, value in facts %}<div><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}
</div>

{% if result.baseline %}
<h2>What the federation was worth</h2>
<p>Accuracy of each model on the examples that the silos held out and nobody trained on: all of them together, then each silo's own. Every model had the same number of passes over its data.</p>
<div class="wide"><table>
<thead><tr><th scope="col">model</th><th scope="col">all silos</th><th scope="col">loss</th>{% for silo in matrix_silos %}<th scope="col">{{ silo }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in models %}<tr{% if row.ours %} class="us"{% endif %}><th scope="row">{{ row.name }}</th><td>{{ row.accuracy }}</td><td>{{ row.loss }}</td>{% for value in row.own %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if more_silos %}<p class="note">The columns show {{ matrix_silos | length }} of {{ result.silos | length }} silos; result.json holds all of them.</p>{% endif %}
{% endif %}

{% if result.rounds %}
<h2>How it learned</h2>
<figure role="img" aria-label="Accuracy and loss on held-out examples, round by round">{{ curves | safe }}
<figcaption>The thick line is the mean over silos, weighted by their held-out examples.</figcaption></figure>
{% endif %}

{% if result.partition %}
<h2>Who has which examples</h2>
<figure role="img" aria-label="Training examples of each class at each silo">{{ partition | safe }}
<figcaption>Training examples of each class at each silo. This picture needs a machine that sees all data: only a simulation has it.</figcaption></figure>
{% endif %}

{% if result.rounds %}
<h2>What it cost</h2>
<figure role="img" aria-label="Seconds and megabytes of each round">{{ costs | safe }}</figure>
{% endif %}

{% if failures %}
<h2>What failed</h2>
<div class="wide"><table><thead><tr><th scope="col">silo</th><th scope="col">rounds</th><th scope="col" style="text-align:left">reason</th></tr></thead>
<tbody>{% for failure in failures %}<tr><th scope="row">{{ failure.silo }}</th><td>{{ failure.rounds }}</td><td class="reason">{{ failure.reason }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}

<h2>How to do it again</h2>
{% if result.command %}<pre>{{ result.command }}</pre>{% endif %}
<dl>
<dt>run</dt><dd><code>{{ result.run_id }}</code>, seed {{ result.seed }}{% if result.engine %}, engine {{ result.engine }}{% endif %}</dd>
<dt>model</dt><dd>{% if result.model %}<code>{{ result.model.path }}</code>, {{ "{:,}".format(result.model.parameters) }} parameters, SHA-256 <code>{{ result.model.sha256 }}</code>{% else %}none was written{% endif %}</dd>
<dt>configuration</dt><dd>config.yaml, SHA-256 of what travelled <code>{{ result.config_digest }}</code></dd>
<dt>code</dt><dd>SHA-256 <code>{{ result.environment.code }}</code></dd>
<dt>ledger</dt><dd>ledger.jsonl, anchor <code>{{ result.ledger or "none" }}</code></dd>
<dt>versions</dt><dd>{% for name, version in result.environment.get("versions", {}).items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}</dd>
<dt>machine</dt><dd>{{ result.environment.platform }}, {{ result.environment.cores }} cores, {{ result.environment.get("devices", []) | join(", ") }}</dd>
</dl>
</main>
</body>
</html>
"""
