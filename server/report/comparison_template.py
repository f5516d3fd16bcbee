"""The page of `server.report.comparison_page` as a Jinja2 template; in a module, as `server.report.page`."""

PAGE = r"""
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }}</title>
<style>{{ stylesheet | safe }}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{{ kicker }}</p>
<h1>{{ headline }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
</header>

<section aria-labelledby="reached">
<h2 id="reached">What they reached, and what it cost</h2>
<div class="wide" tabindex="0" role="region" aria-label="Runs side by side"><table{% if rows | length > 20 %} class="dense"{% endif %}>
<thead><tr><th scope="col">run</th>{% for name in columns %}<th scope="col">{{ name }}</th>{% endfor %}<th scope="col">rounds</th><th scope="col">time</th><th scope="col" colspan="2">travelled</th><th scope="col" class="fact">status</th></tr></thead>
<tbody>{% for row in rows %}<tr{% if row.best %} class="ours"{% endif %}><th scope="row">{% if row.report %}<a href="{{ row.report }}">{{ row.name }}</a>{% else %}{{ row.name }}{% endif %}</th>{% for value in row.cells %}<td>{{ value }}</td>{% endfor %}<td>{{ row.rounds }}</td><td>{{ row.time }}</td><td>{{ row.moved }}</td><td class="bar small"><span style="width: {{ row.share }}%"></span></td><td class="fact">{{ row.status }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="note">{{ legend_of_columns }}</p>
{% if left_out %}<p class="note">{{ left_out }} more runs are left out here; --json has them.</p>{% endif %}
</section>

{% if pictures %}
<section aria-labelledby="learned">
<h2 id="learned">How they learned</h2>
<figure aria-label="Metrics of each run on the {{ where_curves }} of all silos">
<div class="panels">{% for picture, alt in pictures %}<div><div role="img" aria-label="{{ alt }}">{{ picture | safe }}</div></div>{% endfor %}</div>
<ul class="legend" aria-label="Lines">{% for name, line in legend %}<li><svg width="34" height="10" aria-hidden="true" style="stroke: {{ line.page_colour }}; fill: {{ line.page_colour }}"><line x1="0" x2="34" y1="5" y2="5" stroke-width="2"{% if line.dash_array %} stroke-dasharray="{{ line.dash_array }}"{% endif %}/>{% if line.marker == "o" %}<circle cx="17" cy="5" r="2.5"/>{% elif line.marker %}<rect x="14.5" y="2.5" width="5" height="5"/>{% endif %}</svg>{{ name }}</li>{% endfor %}</ul>
<figcaption>On the {{ where_curves }} of all silos together, after each round.{% if not_drawn %} Of so many runs the best {{ legend | length }} are drawn.{% endif %}</figcaption></figure>
</section>
{% endif %}

<section aria-labelledby="differ">
<h2 id="differ">In which settings they differ</h2>
{% if differences %}
<div class="wide" tabindex="0" role="region" aria-label="Differences of configuration"><table class="dense">
<thead><tr>{% for cell in differences[0] %}<th scope="col" class="fact">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in differences[1:] %}<tr>{% for cell in row %}{% if loop.first %}<th scope="row">{{ cell }}</th>{% else %}<td class="fact">{{ cell or "–" }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="note">Every other key of their configurations is the same, names and places apart.</p>
{% else %}<p class="note">In none, names and places apart.</p>{% endif %}

</section>
</main>
</body>
</html>
"""
