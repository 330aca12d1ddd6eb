"""A headless Chromium, where one is installed: a page and a JavaScript expression go in, its value comes out."""

import html
import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium found (looked for {', '.join(NAMES)})")


def evaluate(page, expression, folder, given=None):
    """The value of a JavaScript expression, which may await and use `given`, at the end of a page's own scripts."""
    script = f"""
    <script type="module">
    const given = {json.dumps(given)};
    const pause = (ms) => new Promise((done) => setTimeout(done, ms));
    let result;
    try {{
      result = {{ value: await (async () => ({expression}))() }};
    }} catch (error) {{
      result = {{ error: `${{error.stack}}` }};
    }}
    document.body.innerHTML = "<pre></pre>";
    document.querySelector("pre").textContent = JSON.stringify(result);
    </script></body>"""
    path = folder / "evaluated.html"
    path.write_text(page.replace("</body>", script), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=60000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    (found,) = re.findall("<pre>(.*)</pre>", done.stdout, re.DOTALL)
    result = json.loads(html.unescape(found))
    assert "error" not in result, result["error"]
    return result.get("value")
