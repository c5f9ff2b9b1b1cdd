// The code that a site adds to its pages. Without imports, so that the tests run exactly what the dashboard shows.

/**
 * The client's tag after a stub, whose methods queue the calls until the script is loaded, which then makes them. A script
 * that is late or blocked breaks no handler of the page.
 */
export const snippet = (script) => `<script>
  window.EchoPilot = window.EchoPilot || { q: [] };
  ['track', 'page', 'setUserId', 'init', 'flush', 'optOut', 'optIn'].forEach((name) => {
    EchoPilot[name] = EchoPilot[name] || (async (...values) => { EchoPilot.q.push([name, ...values]); });
  });
</script>
<script src="${script}" async></script>`;

/** Sets the user of the page. Without it events are counted, and users are not. */
export const naming = "EchoPilot.setUserId('user_12345'); // after the log-in; null after the log-out";
