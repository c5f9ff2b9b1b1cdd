// What a site puts into its pages. Without imports, so that the tests run the text that the dashboard shows.

/**
 * The client's tag, behind a stub: its methods keep the calls in a list until the script is there, which then makes them. A
 * script that comes late or is blocked breaks no handler of the page.
 */
export const snippet = (script) => `<script>
  window.EchoPilot = window.EchoPilot || { q: [] };
  ['track', 'page', 'setUserId', 'init', 'flush', 'optOut', 'optIn'].forEach((name) => {
    EchoPilot[name] = EchoPilot[name] || (async (...values) => { EchoPilot.q.push([name, ...values]); });
  });
</script>
<script src="${script}" async></script>`;

/** Who uses the page: without it events count, and users do not. */
export const naming = "EchoPilot.setUserId('user_12345'); // after the log-in; null after the log-out";
