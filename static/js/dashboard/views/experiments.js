// Experiments: which variant converts better, and how certain is that?
import { Failure, query } from '../api.js';
import { eventEditor, stepName } from '../conditions.js';
import { field, h, named, plain, short } from '../dom.js';
import { change, count, counted, percent } from '../format.js';
import { form, NOT_SET, tip } from '../panel.js';
import { EXPERIMENT } from '../texts.js';

/** The p-value of the sample ratio below which the assignment is not credible. */
const BROKEN = 0.001;
const LOOKS = { better: 'good', worse: 'bad', no_difference: 'flat' };

export function experiments(context) {
  const { state, scope, panel } = context;
  const own = { exposure: {}, variant: '', goal: {}, control: '', shares: '', ...state.own };
  const set = (patch) => context.own({ ...state.own, ...patch });
  const isReady = own.variant && Object.keys(own.exposure).length && Object.keys(own.goal).length;
  const result = panel({
    title: EXPERIMENT.result,
    name: 'experiment',
    isAboutUsers: true,
    height: 260,
    tall: true,
    ask: (signal) => (isReady ? ask(scope, own, signal) : notYet()),
  });
  const text = (name, props) =>
    h('input', {
      type: 'text',
      value: own[name],
      autocomplete: 'off',
      spellcheck: 'false',
      onchange: (event) => set({ [name]: event.target.value }),
      ...props,
    });
  const choices = form(
    EXPERIMENT.form,
    own.variant ? plain(own.variant) : NOT_SET,
    h(
      'div',
      { class: 'fields wide' },
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: EXPERIMENT.exposureEvent }),
        eventEditor(EXPERIMENT.exposure, own.exposure, (exposure) => set({ exposure })),
      ),
      field(EXPERIMENT.variantKey, text('variant', { placeholder: EXPERIMENT.variantExample })),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: EXPERIMENT.goalEvent }),
        eventEditor(EXPERIMENT.goal, own.goal, (goal) => set({ goal })),
      ),
      field(EXPERIMENT.control, text('control', { placeholder: EXPERIMENT.controlHint })),
      field(EXPERIMENT.shares, text('shares', { placeholder: EXPERIMENT.sharesHint })),
    ),
  );
  return {
    title: EXPERIMENT.title,
    lead: EXPERIMENT.lead,
    element: h('div', { class: 'grid' }, choices, result.element),
    panels: [result],
  };
}

const notYet = () => ({
  rows: [],
  isEmpty: true,
  empty: EXPERIMENT.choose,
});

/** The weights of `control:9, new:1`, each behind the last colon. */
function weights(shares) {
  return Object.fromEntries(
    shares.split(',').map((share) => {
      const [, variant, weight] = share.match(/^\s*(.*\S)\s*:\s*([\d.]+)\s*$/) || [];
      if (!variant) throw new Failure(400, 'bad_shares', EXPERIMENT.noShare(share.trim()));
      return [variant, Number(weight)];
    }),
  );
}

async function ask(scope, own, signal) {
  const body = {
    metric: 'experiment',
    exposure: own.exposure,
    variant: own.variant,
    goal: own.goal,
    ...(own.control && { control: own.control }),
    ...(own.shares && { weights: weights(own.shares) }),
    ...scope,
  };
  const answer = await query(body, signal);
  const { rows } = answer;
  const arms = rows.filter((row) => !row.variant.startsWith('__'));
  const multiple = rows.find((row) => row.variant === '__multiple__');
  const ratio = rows.find((row) => row.variant === '__sample_ratio__');
  const [control] = arms;
  const compared = arms.filter((row) => row.lift !== null);
  const notes = [];
  const isBroken = typeof ratio?.p_value === 'number' && ratio.p_value < BROKEN;
  if (isBroken) {
    const chance = ratio.p_value < 0.0001 ? '< 0.0001' : ratio.p_value.toFixed(4);
    notes.push(['bad', (own.shares ? EXPERIMENT.farFromShares : EXPERIMENT.unequal)(chance), 'sample-ratio']);
  }
  if (multiple?.exposed) notes.push(['soft', EXPERIMENT.several(counted(multiple.exposed, 'user')), 'multiple']);
  if (compared.some((row) => row.verdict === null)) notes.push(['soft', EXPERIMENT.tooFew, 'too-few']);
  const reach =
    Math.max(...compared.flatMap((row) => [Math.abs(row.interval.low), Math.abs(row.interval.high)]), 0.05) * 1.1;
  return {
    answer,
    rows,
    request: { path: 'query', body },
    about: [
      EXPERIMENT.aboutExposure(plain(stepName(own.exposure)), plain(own.variant)),
      EXPERIMENT.aboutGoal(plain(stepName(own.goal))),
    ],
    notes,
    isEmpty: arms.length === 0,
    empty: multiple?.exposed ? EXPERIMENT.allSeveral : EXPERIMENT.noUser,
    label: compared
      .map((row) => EXPERIMENT.label(plain(row.variant), plain(control.variant), change(row.lift), intervalOf(row)))
      .join('. '),
    above: h(
      'div',
      { class: 'arms' },
      arms.map((row, place) => {
        const result = !isBroken && LOOKS[row.verdict];
        return h(
          'article',
          { class: 'arm', 'data-variant': plain(row.variant), 'data-rate': row.rate },
          h(
            'h3',
            {},
            named(row.variant),
            place === 0 && h('span', { class: 'tag', text: EXPERIMENT.isControl }),
            result && h('span', { class: `tag ${result}`, text: EXPERIMENT.results[row.verdict] }),
          ),
          h('strong', { class: 'figure-number', text: percent(row.rate, 2) }),
          h('p', { class: 'hint', text: EXPERIMENT.part(count(row.converted), counted(row.exposed, 'user')) }),
          row.lift !== null &&
            h(
              'dl',
              {},
              pair(EXPERIMENT.lift, change(row.lift)),
              pair(EXPERIMENT.interval, intervalOf(row)),
              pair('p', row.p_value < 0.0001 ? '< 0.0001' : row.p_value.toFixed(4)),
              pair(EXPERIMENT.chance, percent(row.chance_to_win)),
            ),
        );
      }),
    ),
    height: 70 + compared.length * 54,
    option: compared.length
      ? (look) => ({
          grid: { top: 10, right: 24 },
          tooltip: {
            trigger: 'item',
            formatter: ({ dataIndex }) => {
              const row = compared[dataIndex];
              return tip(plain(row.variant), [
                [EXPERIMENT.lift, change(row.lift)],
                [EXPERIMENT.interval, intervalOf(row)],
                [EXPERIMENT.chance, percent(row.chance_to_win)],
              ]);
            },
          },
          xAxis: {
            type: 'value',
            min: -reach,
            max: reach,
            axisLabel: {
              showMinLabel: false,
              showMaxLabel: false,
              formatter: (share) => change(share).replace('.0%', '%'),
            },
            name: EXPERIMENT.lift,
            nameLocation: 'middle',
            nameGap: 26,
          },
          yAxis: {
            type: 'category',
            inverse: true,
            data: compared.map((_, place) => place),
            axisLabel: { color: look.ink, fontSize: 12, formatter: (place) => short(compared[place].variant, 18) },
            splitLine: { show: false },
          },
          series: [
            {
              type: 'custom',
              encode: { x: [1, 2], y: 0 },
              data: compared.map((row, place) => [place, row.interval.low, row.interval.high, row.lift]),
              markLine: {
                silent: true,
                symbol: 'none',
                label: { show: false },
                lineStyle: { color: look.muted, type: 'solid' },
                data: [{ xAxis: 0 }],
              },
              renderItem: (_, api) => {
                const [low, high, middle] = [1, 2, 3].map((place) => api.coord([api.value(place), api.value(0)]));
                const lift = api.value(3);
                const colour = api.value(1) > 0 ? look.good : api.value(2) < 0 ? look.bad : look.series[0];
                return {
                  type: 'group',
                  children: [
                    {
                      type: 'rect',
                      shape: { x: low[0], y: low[1] - 9, width: high[0] - low[0], height: 18, r: 9 },
                      style: { fill: colour, opacity: 0.22 },
                    },
                    { type: 'circle', shape: { cx: middle[0], cy: middle[1], r: 5 }, style: { fill: colour } },
                    {
                      type: 'text',
                      style: {
                        x: middle[0],
                        y: middle[1] - 22,
                        text: change(lift),
                        fill: look.ink,
                        align: 'center',
                        font: '600 11px system-ui',
                      },
                    },
                  ],
                };
              },
            },
          ],
        })
      : undefined,
    ...(compared.length ? {} : { element: () => h('p', { class: 'hint', text: EXPERIMENT.oneVariant }) }),
  };
}

const intervalOf = ({ interval }) => EXPERIMENT.between(change(interval.low), change(interval.high));

const pair = (name, value) => h('div', {}, h('dt', { text: name }), h('dd', { text: value }));
