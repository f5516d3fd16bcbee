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
<style>{{ stylesheet | safe }}</style>
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
{% macro lines_of(legend) %}<ul class="legend" aria-label="Lines">{% for name, line in legend %}<li><svg width="34" height="10" aria-hidden="true" style="stroke: {{ line.page_colour }}; fill: {{ line.page_colour }}"{% if line.width > 8 %} opacity="0.3"{% endif %}><line x1="0" x2="34" y1="5" y2="5" stroke-width="{{ line.width }}"{% if line.dash_array %} stroke-dasharray="{{ line.dash_array }}"{% endif %}/>{% if line.marker == "o" %}<circle cx="17" cy="5" r="2.5"/>{% elif line.marker %}<rect x="14.5" y="2.5" width="5" height="5"/>{% endif %}</svg>{{ name }}</li>{% endfor %}</ul>{% endmacro %}
{% macro known(one) %}<td>{{ one.value }}{% if one.interval %}<br><span class="note">{{ one.interval }}</span>{% endif %}</td>{% endmacro %}
{% macro models(rows, silos, metric, others) %}
<thead><tr><th scope="col">model</th><th scope="col" colspan="2">{{ metric }}, all silos</th>{% for name in others %}<th scope="col">{{ name }}</th>{% endfor %}{% for silo in silos %}<th scope="col" class="name">{{ silo }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr{% if row.ours %} class="ours"{% endif %}><th scope="row">{{ row.name }}</th><td class="bar"><span style="width: {{ "%.1f" % (100 * row.share) }}%"></span></td><td>{{ row.score }}</td>{% for value in row.others %}<td>{{ value }}</td>{% endfor %}{% for value in row.own %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
{% endmacro %}
{% if finals %}
{% set central = finals | selectattr("central", "ne", "–") | list %}
{% set intervals = finals | selectattr("interval") | list %}
<section aria-labelledby="good">
<h2 id="good">How good it is</h2>
<div class="wide" tabindex="0" role="region" aria-label="The metrics at the end"><table>
<thead><tr><th scope="col">metric</th><th scope="col">all silos</th>{% if intervals %}<th scope="col">95 % interval</th>{% endif %}<th scope="col">worst silo</th><th scope="col">best silo</th>{% if central %}<th scope="col">the task's test set</th>{% endif %}<th scope="col" class="text"></th></tr></thead>
<tbody>{% for row in finals %}<tr{% if loop.first %} class="ours"{% endif %}><th scope="row">{{ row.name | replace("_", " ") }}</th><td>{{ row.union }}</td>{% if intervals %}<td>{{ row.interval }}</td>{% endif %}<td>{{ row.worst }}</td><td>{{ row.best }}</td>{% if central %}<td>{{ row.central }}</td>{% endif %}<td class="text note">{{ row.direction }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="note">{{ where_final }}{% if intervals %} Intervals by a Poisson bootstrap of what the silos added up: other examples of the same silos, drawn one by one.{% endif %}</p>{% if no_comparison %}<p class="note">{{ no_comparison }}</p>{% endif %}
</section>
{% endif %}

{% if decisions %}
<section aria-labelledby="decides">
<h2 id="decides">How it decides</h2>
{% macro points() %}<div class="wide" tabindex="0" role="region" aria-label="Operating points"><table>
<thead><tr><th scope="col">says yes to</th><th scope="col" class="fact">chosen for</th><th scope="col">from probability</th><th scope="col">sensitivity</th><th scope="col">specificity</th><th scope="col">precision</th><th scope="col">false in 1,000</th></tr></thead>
<tbody>{% for row in decisions.rows %}<tr><th scope="row">{{ row.name }}</th><td class="fact">{{ row.rule }}<br><span class="note">on validation: {{ row.chosen_sensitivity }} and {{ row.chosen_specificity }}</span></td><td>{{ row.probability }}</td>{{ known(row.sensitivity) }}{{ known(row.specificity) }}{{ known(row.precision) }}<td>{{ row.alarms }}</td></tr>
{% endfor %}</tbody></table></div>{% endmacro %}
{% if decisions.rows %}
<p>From which score on it says yes was chosen on the validation examples of {{ decisions.silos }} silo{{ "" if decisions.silos == 1 else "s" }}, before the test; this is what it then does on {{ decisions.where }}.{% if decisions.exclusive %} Of several classes the likeliest is predicted; each has a point of its own for whoever looks for it alone.{% endif %}</p>
{% if decisions.rows | length > 4 %}<details><summary>The operating points of the {{ decisions.rows | length }} classes</summary>{{ points() }}</details>{% else %}{{ points() }}{% endif %}

{% endif %}
{% macro taken_for() %}{% if decisions.confusion %}<figure><figcaption>Examples by true class (rows) and by the likeliest class of the model (columns).</figcaption><div class="wide" tabindex="0" role="region" aria-label="True and guessed classes"><table class="heat{{ " dense" if decisions.confusion | length > 12 else "" }}">
<thead><tr><th scope="col"></th>{% for name, _ in decisions.confusion %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for name, cells in decisions.confusion %}<tr><th scope="row">{{ name }}</th>{% for count, share in cells %}<td style="--share: {{ share }}"{% if count == 0 %} class="none"{% endif %}>{{ "{:,}".format(count) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></figure>{% endif %}{% endmacro %}
<div class="panels">{% for picture, alt in decisions.pictures %}<figure><div role="img" aria-label="{{ alt }}">{{ picture | safe }}</div></figure>{% endfor %}

{% if decisions.confusion | length <= 5 %}{{ taken_for() }}{% endif %}

</div>
{% if decisions.legend | length > 1 %}{{ lines_of(decisions.legend) }}{% endif %}

{% if decisions.confusion | length > 5 %}{{ taken_for() }}{% endif %}

{% if decisions.rankings %}
<div class="wide" tabindex="0" role="region" aria-label="Each class"><table>
<thead><tr><th scope="col">class</th><th scope="col">examples of it</th><th scope="col">AUROC</th><th scope="col">AUPRC</th><th scope="col">calibration error</th>{% if decisions.temperature != "–" and not decisions.sure %}<th scope="col">at temperature {{ decisions.temperature }}</th>{% endif %}</tr></thead>
<tbody>{% for row in decisions.rankings %}<tr><th scope="row">{{ row.name }}</th><td>{{ row.examples }}</td>{{ known(row.auroc) }}{{ known(row.auprc) }}<td>{{ row.error }}</td>{% if decisions.temperature != "–" and not decisions.sure %}<td>{{ row.calibrated }}</td>{% endif %}</tr>
{% endfor %}</tbody></table></div>
{% if decisions.sure %}<p>Of the class that is said, the calibration error is {{ decisions.sure }}{% if decisions.sure_cooled %}, and {{ decisions.sure_cooled }} at the temperature {{ decisions.temperature }}{% endif %}.</p>
{% endif %}<p class="note">Small: 95 % intervals. Rings in the curves are the operating points. Calibration error: of 15 ranges of the probability, the mean distance between what was said and what happened{% if decisions.temperature != "–" %}; the temperature, by which scores are divided, was chosen on validation examples{% if decisions.legend | length == 1 %} and is drawn dashed{% endif %}{% endif %}. All of it is of {{ decisions.where }}, made of counts of scores{% if decisions.where != "the task's own test set" %} that the silos added up{% endif %}.</p>
{% endif %}
{% if decisions.groups %}
<h3>By group</h3>
<div class="wide" tabindex="0" role="region" aria-label="Each group"><table>
<thead><tr><th scope="col">group</th><th scope="col">examples</th><th scope="col">accuracy</th><th scope="col">AUROC</th><th scope="col">AUPRC</th></tr></thead>
<tbody>{% for row in decisions.groups %}<tr><th scope="row">{{ row.name }}</th><td>{{ row.examples }}</td>{{ known(row.accuracy) }}{{ known(row.auroc) }}{{ known(row.auprc) }}</tr>
{% endfor %}</tbody></table></div>
<p class="note">Examples whose group is not known are in none; small counts that an owner withholds are missing.</p>
{% endif %}
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

{% if gains %}
<section aria-labelledby="gained">
<h2 id="gained">Who gained</h2>
<p>{{ gains.better }} of {{ gains.rows | length + gains.left_out }} silo{{ "" if gains.rows | length == 1 else "s" }} gained, {{ gains.worse }} lost: the federated model beside each silo's own, trained alone, on that silo's own {{ where_models }}.</p>
<div class="wide{{ " tall" if gains.rows | length > 20 else "" }}" tabindex="0" role="region" aria-label="What each silo gained"><table{% if gains.rows | length > 20 %} class="dense"{% endif %}>
<thead><tr><th scope="col">silo</th><th scope="col">alone</th><th scope="col">federated</th><th scope="col">gain in {{ gains.metric }}</th><th scope="col" class="gain"></th></tr></thead>
<tbody>{% for row in gains.rows %}<tr><th scope="row">{{ row.silo }}</th><td>{{ row.alone }}</td><td>{{ row.federated }}</td><td>{{ row.change }}</td><td class="gain"><span class="{{ "up" if row.share > 0 else "down" }}" style="width: {{ "%.1f" % (50 * row.share | abs) }}%"></span></td></tr>
{% endfor %}</tbody></table></div>
{{ left_out(gains.left_out, "result.json") }}
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
{{ lines_of(legend) }}
<figcaption>Each silo's curve is the federated model's metric on that silo's own {{ where_curves }}, the thick one on all of them together.{% if comparison %} The lines across are the other models, on the {{ where_models }}.{% endif %}{% if spread %} Of so many silos only the range is drawn.{% endif %}{% if curve_step > 1 %} Each point is the mean of {{ curve_step }} rounds{% if spread %}, and the range is that of all of them{% endif %}.{% endif %}</figcaption></figure>
</section>
{% endif %}

{% if named %}
<section aria-labelledby="look">
<h2 id="look">Silos to look at</h2>
<div class="wide{{ " tall" if named | length > 20 else "" }}" tabindex="0" role="region" aria-label="Silos to look at"><table><thead><tr><th scope="col">silo</th><th scope="col" class="text">what</th><th scope="col" class="text">rounds</th></tr></thead>
<tbody>{% for row in named %}<tr><th scope="row">{{ row.silo }}</th><td class="text">{{ row.what }}</td><td class="text">{{ row.rounds }}</td></tr>
{% endfor %}</tbody></table></div>
{{ left_out(more.named, "history.jsonl") }}
</section>
{% endif %}

{% if movement %}
<section aria-labelledby="moved">
<h2 id="moved">Who moved the model</h2>
<p>A silo's part of a round's movement is what its update weighs times how far it went, of all silos'.{% if movement_rows | length < 3 %} Of fewer than three silos none is called the model's owner.{% endif %}</p>
<div class="panels"><div><figure aria-label="Each silo's part of the movement, round by round"><div role="img" aria-label="{{ movement[1] }}">{{ movement[0] | safe }}</div>{{ lines_of(movement_legend) }}{% if curve_step > 1 %}<figcaption>Each point is the mean of {{ curve_step }} rounds{% if spread %}, or the largest of them{% endif %}.</figcaption>{% endif %}</figure></div></div>
{% macro who_moved() %}<div class="wide" tabindex="0" role="region" aria-label="Who moved the model"><table{% if movement_rows | length > 20 %} class="dense"{% endif %}>
<thead><tr><th scope="col">silo</th><th scope="col">of all movement</th><th scope="col">weight</th><th scope="col">update norm</th><th scope="col">largest</th><th scope="col">direction</th></tr></thead>
<tbody>{% for row in movement_rows %}<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div><p class="note">Means of its rounds: its part of the movement, what its update weighed of the round, and the cosine of its direction to the round's mean (1: the same, 0: across, less: against it; from sketches, standard error 0.022). Update norm: the length of its updates, median and largest.</p>{{ left_out(more.moved, "history.jsonl") }}{% endmacro %}
{% if movement_rows | length > 20 %}<details><summary>{% if more.moved %}The {{ movement_rows | length }} silos that moved it most{% else %}Each of the {{ movement_rows | length }} silos{% endif %}</summary>{{ who_moved() }}</details>{% else %}{{ who_moved() }}{% endif %}

</section>
{% endif %}

{% if privacy %}
<section aria-labelledby="privacy">
<h2 id="privacy">What privacy it cost</h2>
{% for sentence in privacy.said %}<p{% if not loop.first %} class="note"{% endif %}>{{ sentence }}</p>
{% endfor %}
{% if privacy.pictures %}<figure aria-label="Epsilon round by round"><div class="panels">{% for picture, alt in privacy.pictures %}<div><div role="img" aria-label="{{ alt }}">{{ picture | safe }}</div>{% if loop.first %}{{ lines_of(privacy.legend) }}{% endif %}</div>{% endfor %}</div></figure>{% endif %}

{% macro who_paid() %}<div class="wide" tabindex="0" role="region" aria-label="What each silo paid"><table{% if privacy.rows | length > 20 %} class="dense"{% endif %}>
<thead><tr><th scope="col">silo</th><th scope="col">epsilon</th><th scope="col">by Rényi divergences</th><th scope="col">noise, in units of the norm</th></tr></thead>
<tbody>{% for row in privacy.rows %}<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{{ left_out(privacy.left_out, "result.json") }}{% endmacro %}
{% if privacy.rows | length > 20 %}<details><summary>{% if privacy.left_out %}The {{ privacy.rows | length }} silos that paid most{% else %}Each of the {{ privacy.rows | length }} silos{% endif %}</summary>{{ who_paid() }}</details>{% else %}{{ who_paid() }}{% endif %}

<dl class="again">
{% for name, value in privacy.facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
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
<thead><tr><th scope="col">silo</th><th scope="col">answered</th><th scope="col">examples</th><th scope="col">share</th><th scope="col">training</th><th scope="col">sent</th>{% for name in result.shown %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in silo_rows %}<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div><p class="note">Rounds answered of those asked; examples to train on, and their share of all silos'; training: seconds a round, median; metrics: after its last round, on its own {{ where_curves }}.</p>{{ left_out(more.silos, "history.jsonl") }}{% endmacro %}
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
{% if result.environment.get("code") %}<dt>code</dt><dd>digest of what must agree <code>{{ result.environment.code }}</code>{% if result.environment.get("tree") %}, of all that is installed at the server <code>{{ result.environment.tree }}</code>{% endif %}{% for name, digest in result.environment.get("outside", {}).items() %}, of the {{ name }} <code>{{ digest }}</code>{% endfor %}</dd>{% endif %}

{% if result.ledger %}<dt>ledger</dt><dd>ledger.jsonl, anchor <code>{{ result.ledger }}</code></dd>{% endif %}

{% if audit %}<dt>verification</dt><dd>when this page was written: <strong class="{{ "bad" if audit.faults else ("good" if audit.confirmed else "") }}">{{ audit }}</strong>.{% for note in audit.notes %} {{ note }}.{% endfor %} Beside what others keep: <code>meadow verify run={{ known_as }} ca=FILE records=FILE,FILE</code></dd>{% endif %}

{% if result.mlflow_run_id %}<dt>MLflow run</dt><dd><code>{{ result.mlflow_run_id }}</code></dd>{% endif %}

<dt>versions</dt><dd>{% for name, version in result.environment.get("versions", {}).items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% else %}not recorded{% endfor %}</dd>
{% if result.environment.get("platform") %}<dt>machine</dt><dd>{{ result.environment.platform }}, {{ result.environment.get("cores", "?") }} cores, {{ result.environment.get("devices", []) | join(", ") }}</dd>{% endif %}

</dl>
</section>
</main>
</body>
</html>
"""
