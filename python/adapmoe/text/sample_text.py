# SPDX-License-Identifier: Apache-2.0
"""The text on which routing is sampled when the user gives none."""

SAMPLE_TEXT = """\
A lighthouse keeper writes down the weather three times a day. In the morning he climbs the stairs,
reads the barometer, looks at the sea and notes the direction of the wind. At noon he does the same,
and again when the lamp is lit. Nobody asked him to keep the old notebooks, but he has them all, in
a cupboard below the window, sorted by year. Last winter two students came by boat and copied the
numbers into a computer. They found that the storms of his childhood had been no worse than those of
today, which surprised everyone in the village, him most of all.

The program that they wrote was short. It read one line at a time, split it at the commas, and threw
an error when a field was missing:

    def parse(line):
        date, hour, pressure, wind = line.split(",")
        if not pressure:
            raise ValueError(f"no pressure on {date} at {hour}")
        return date, int(hour), float(pressure), wind.strip()

What is the average pressure in March? How many days had wind from the north? Such questions could
now be answered in a second, where before one had needed a long evening and a good lamp. The answer
to the first is 1012.4 hectopascals; the second depends on what counts as north.

Good measurements need three things: an instrument that does not change, a person who reads it the
same way every time, and a reason to go on. The first can be bought and the second can be taught.
The third is harder. Asked about it, the keeper said that he liked to know how a day had been, even
a dull one, and that a number written down was a day not quite lost. Then he put on his coat,
because it was almost noon, and went up the stairs to look at the sea.

The students returned in spring with a better sensor, a battery and a small radio. They fixed it to
the railing and showed him the graph on a telephone. He nodded, thanked them, and kept writing. When
the battery failed in August, his notebook was the only record of the calmest week of the year.
"""
