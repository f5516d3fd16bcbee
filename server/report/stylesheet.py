"""How the pages look, in light and dark, on a phone and on paper; in a module, since a Flower app
bundle takes no other text.
"""

STYLESHEET = """
:root { color-scheme: light dark; --ink: #1a212c; --soft: #5a6472; --line: #d8dee7; --paper: #fff; --panel: #f4f6f9; --accent: #1f6fbf; --good: #17795e; --bad: #b3261e; --shade: rgb(20 30 50 / 28%); }
@media (prefers-color-scheme: dark) { :root { --ink: #e9edf3; --soft: #a0aab8; --line: #333b46; --paper: #12161c; --panel: #1b212a; --accent: #6cb0f2; --good: #5fd0ab; --bad: #ff8f85; --shade: rgb(150 180 220 / 34%); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.35rem, 1rem + 1.6vw, 1.9rem); line-height: 1.28; margin: 0.5rem 0 0.6rem; font-weight: 650; letter-spacing: -0.012em; text-wrap: balance; max-width: 48rem; }
h2 { font-size: 1.15rem; margin: 3rem 0 0.4rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.2rem; }
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
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.92rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: 0.42rem 0.7rem; border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400; }
th:first-child { text-align: left; padding-left: 0.2rem; }
tbody th { max-width: 19rem; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
thead th { color: var(--soft); vertical-align: bottom; }
thead th.name { min-width: 5.5rem; max-width: 9rem; white-space: normal; overflow-wrap: anywhere; }
tr.ours > * { font-weight: 680; }
td.bar { width: 30%; min-width: 8rem; }
td.bar span { display: block; height: 0.75rem; border-radius: 0 3px 3px 0; background: var(--soft); opacity: 0.6; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
tr.ours td.bar span { background: var(--accent); opacity: 1; }
td.bar.small { width: 5rem; min-width: 3rem; }
td.gain { width: 34%; min-width: 9rem; position: relative; background: linear-gradient(var(--line), var(--line)) 50% 0 / 1px 100% no-repeat; } td.gain span { position: absolute; top: 50%; height: 0.75rem; margin-top: -0.375rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; } td.gain .up { left: 50%; background: var(--good); border-radius: 0 3px 3px 0; } td.gain .down { right: 50%; background: var(--bad); border-radius: 3px 0 0 3px; }
td .note { font-size: 0.82rem; }
td.fact, th.fact { text-align: left; padding-left: 0.45rem; padding-right: 0.45rem; font-size: 0.86rem; }
td.text, th.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
table.heat td { text-align: center; padding: 0.35rem 0.3rem; border: 1px solid var(--paper); min-width: 2.3rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; background: color-mix(in srgb, var(--accent) calc(var(--share) * 62%), var(--panel)); }
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
@media (max-width: 34rem) { main { padding-top: 1.25rem; } .again { grid-template-columns: minmax(0, 1fr); gap: 0; } .again dd { margin-bottom: 0.5rem; } tbody th { max-width: 9.5rem; min-width: 6.2rem; } table.heat tbody th { min-width: 4.5rem; } td.bar { min-width: 4rem; } th, td { padding-left: 0.45rem; padding-right: 0.45rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --panel: #f4f6f9; --accent: #1f6fbf; --good: #17795e; --bad: #b3261e; --shade: transparent; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; } h2 { break-after: avoid; margin-top: 1.5rem; } figure, tr, dl { break-inside: avoid; } .facts { grid-template-columns: repeat(3, 1fr); } .wide { overflow: visible; max-height: none; background: none; } .panels { grid-template-columns: 1fr 1fr; } }
"""
