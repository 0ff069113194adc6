/* One pass over JSON texts (RFC 8259) that notes where wanted members are, and builds nothing.

   json_members.py calls scan(), first(), copy() and times(), and setup.py compiles this file. No function allocates memory, or
   reads beyond the end of a text. Positions are indexes into the bytes of all texts. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* What a text or a value is. ABSENT: there is no such member; of a whole text: it is not JSON.
   NUMBER: with a fraction or an exponent. */
enum kind { ABSENT, NONE, TEXT, INTEGER, NUMBER, BOOLEAN, OBJECT, ARRAY };

/* The wanted keys: those of the top level, followed by those inside of each of these members. */
struct wanted {
    const uint8_t *names;
    const int32_t *bounds; /* key n is names[bounds[n]] to names[bounds[n + 1] - 1] */
    const int32_t *inner;  /* the top level has keys 0 to inner[0] - 1, member n keys inner[n] to inner[n + 1] - 1 */
};

/* What is found. The first arrays have an item per text, the others one per wanted key and text: see value_at(). */
struct found {
    uint8_t *document;       /* the text's kind */
    uint8_t *repeated_key;   /* true: a wanted key occurs twice at the top level */
    uint8_t *lone_surrogate; /* true: an escape is half of a surrogate pair */
    uint8_t *kinds;          /* of the value; of a key that is repeated inside of a member, the first counts */
    uint8_t *escaped;        /* true: the value is a string with escapes */
    int32_t *starts;         /* where the value begins and ends, a string without its quotes */
    int32_t *ends;
};

/* The members of the top level that are not wanted, in the order of the texts. */
struct others {
    int32_t *texts;
    int32_t *starts; /* where the key begins, at its quote */
    int32_t *key_ends;
    int32_t *ends; /* where the value ends */
};

struct scanner {
    const struct wanted *wanted;
    const struct found *found;
    const struct others *others;
    int64_t text_count, other_count, other_room;
    uint8_t *containers; /* the kinds of the open objects and arrays; room for the longest text */
};

/* A text or string that is being read. */
struct reader {
    const uint8_t *data;
    int32_t at, end;
    bool lone_surrogate; /* one was met */
};

static bool is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

static bool next_is(const struct reader *r, uint8_t byte) { return r->at < r->end && r->data[r->at] == byte; }

static void skip_space(struct reader *r)
{
    while (r->at < r->end) {
        uint8_t byte = r->data[r->at];
        if (byte != ' ' && byte != '\n' && byte != '\r' && byte != '\t')
            return;
        r->at++;
    }
}

/* Skip digits; false if there are none. */
static bool skip_digits(struct reader *r)
{
    int32_t start = r->at;
    while (r->at < r->end && is_digit(r->data[r->at]))
        r->at++;
    return r->at > start;
}

static bool skip_word(struct reader *r, const char *word, int32_t size)
{
    if (r->end - r->at < size || memcmp(r->data + r->at, word, size) != 0)
        return false;
    r->at += size;
    return true;
}

/* Skip a number, whose first byte is a minus or a digit. Returns its kind, or ABSENT. */
static enum kind skip_number(struct reader *r)
{
    enum kind kind = INTEGER;
    if (next_is(r, '-'))
        r->at++;
    bool zero = next_is(r, '0');
    int32_t start = r->at;
    if (!skip_digits(r) || (zero && r->at > start + 1))
        return ABSENT;
    if (next_is(r, '.')) {
        kind = NUMBER;
        r->at++;
        if (!skip_digits(r))
            return ABSENT;
    }
    if (next_is(r, 'e') || next_is(r, 'E')) {
        kind = NUMBER;
        r->at++;
        if (next_is(r, '-') || next_is(r, '+'))
            r->at++;
        if (!skip_digits(r))
            return ABSENT;
    }
    return kind;
}

/* The value of \uXXXX at the position, or -1 if it is not one. */
static int32_t code_unit(const struct reader *r, int32_t at)
{
    if (r->end - at < 6 || r->data[at] != '\\' || r->data[at + 1] != 'u')
        return -1;
    int32_t code = 0;
    for (int32_t place = at + 2; place < at + 6; place++) {
        uint8_t byte = r->data[place], letter = byte | 0x20;
        if (is_digit(byte))
            code = code << 4 | (byte - '0');
        else if (letter >= 'a' && letter <= 'f')
            code = code << 4 | (letter - 'a' + 10);
        else
            return -1;
    }
    return code;
}

/* Skip an escape. Returns its code point, U+FFFD for a lone surrogate, or -1 if it is not an escape. */
static int32_t skip_escape(struct reader *r)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (r->end - r->at < 2)
        return -1;
    const char *letter = memchr(letters, r->data[r->at + 1], sizeof letters - 1);
    if (letter) {
        r->at += 2;
        return meanings[letter - letters];
    }
    int32_t code = code_unit(r, r->at);
    if (code < 0)
        return -1;
    r->at += 6;
    if (code < 0xD800 || code > 0xDFFF)
        return code;
    int32_t low = code < 0xDC00 ? code_unit(r, r->at) : -1;
    if (low < 0xDC00 || low > 0xDFFF) {
        r->lone_surrogate = true;
        return 0xFFFD;
    }
    r->at += 6;
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
}

/* Skip bytes that stand for themselves in a string: all but control characters, the quote and the backslash. */
static void skip_plain(struct reader *r)
{
    static const uint64_t each = 0x0101010101010101, high = 0x8080808080808080;
    for (; r->end - r->at >= 8; r->at += 8) {
        uint64_t bytes = 0;
        for (int place = 7; place >= 0; place--) /* compilers make one load of it */
            bytes = bytes << 8 | r->data[r->at + place];
        uint64_t quote = bytes ^ each * '"', backslash = bytes ^ each * '\\';
        /* The lowest bit that is set is the highest of the first byte that is less than a space, or zero */
        uint64_t special =
            (((bytes - each * ' ') & ~bytes) | ((quote - each) & ~quote) | ((backslash - each) & ~backslash)) & high;
        if (special) {
            r->at += __builtin_ctzll(special) / 8;
            return;
        }
    }
    while (r->at < r->end && r->data[r->at] >= ' ' && r->data[r->at] != '"' && r->data[r->at] != '\\')
        r->at++;
}

/* Skip a string; false if there is none. */
static bool skip_string(struct reader *r, bool *escaped)
{
    *escaped = false;
    if (!next_is(r, '"'))
        return false;
    r->at++;
    for (;;) {
        skip_plain(r);
        if (next_is(r, '"')) {
            r->at++;
            return true;
        }
        if (!next_is(r, '\\') || skip_escape(r) < 0)
            return false;
        *escaped = true;
    }
}

/* Skip a key of an object and the colon behind it; false if there is none. The key's inside is start to end. */
static bool skip_key(struct reader *r, int32_t *start, int32_t *end, bool *escaped)
{
    *start = r->at + 1;
    if (!skip_string(r, escaped))
        return false;
    *end = r->at - 1;
    skip_space(r);
    if (!next_is(r, ':'))
        return false;
    r->at++;
    skip_space(r);
    return true;
}

/* Skip anything but an object or array. Returns its kind, or ABSENT. */
static enum kind skip_scalar(struct reader *r, bool *escaped)
{
    *escaped = false;
    switch (r->data[r->at]) {
    case '"':
        return skip_string(r, escaped) ? TEXT : ABSENT;
    case 'n':
        return skip_word(r, "null", 4) ? NONE : ABSENT;
    case 't':
        return skip_word(r, "true", 4) ? BOOLEAN : ABSENT;
    case 'f':
        return skip_word(r, "false", 5) ? BOOLEAN : ABSENT;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return skip_number(r);
    default:
        return ABSENT;
    }
}

/* Write a code point as UTF-8; returns the number of bytes. */
static int32_t encode(int32_t code, uint8_t *out)
{
    if (code < 0x80) {
        out[0] = code;
        return 1;
    }
    int32_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int32_t place = size - 1; place > 0; place--, code >>= 6)
        out[place] = 0x80 | (code & 0x3F);
    out[0] = (size == 2 ? 0xC0 : size == 3 ? 0xE0 : 0xF0) | code;
    return size;
}

/* Write the inside of a string without its escapes; returns the number of bytes, at most as many as there are. */
static int32_t unescape(const uint8_t *data, int32_t start, int32_t end, uint8_t *out)
{
    struct reader r = {data, start, end, false};
    uint8_t *to = out;
    while (r.at < r.end) {
        if (r.data[r.at] == '\\')
            to += encode(skip_escape(&r), to);
        else
            *to++ = r.data[r.at++];
    }
    return to - out;
}

/* Is the inside of a string with escapes this name? */
static bool is_escaped_name(const uint8_t *data, int32_t start, int32_t end, const uint8_t *name, int32_t size)
{
    struct reader r = {data, start, end, false};
    int32_t same = 0;
    while (r.at < r.end) {
        uint8_t bytes[4] = {r.data[r.at]};
        int32_t more = 1;
        if (r.data[r.at] == '\\')
            more = encode(skip_escape(&r), bytes);
        else
            r.at++;
        if (more > size - same || memcmp(bytes, name + same, more) != 0)
            return false;
        same += more;
    }
    return same == size;
}

static bool is_name(const uint8_t *data, int32_t start, int32_t end, bool escaped, const uint8_t *name, int32_t size)
{
    return escaped ? is_escaped_name(data, start, end, name, size)
                   : size == end - start && memcmp(data + start, name, size) == 0;
}

/* The wanted key, of first to last - 1, that the inside of a string is, or -1. Most texts have their keys in the same
   order, so the search begins at the hint. */
static int32_t find(const struct wanted *wanted, int32_t first, int32_t last, int32_t hint, const uint8_t *data,
                    int32_t start, int32_t end, bool escaped)
{
    int32_t key = hint >= first && hint < last ? hint : first;
    for (int32_t tries = last - first; tries > 0; tries--) {
        const uint8_t *name = wanted->names + wanted->bounds[key];
        int32_t size = wanted->bounds[key + 1] - wanted->bounds[key];
        if (is_name(data, start, end, escaped, name, size))
            return key;
        if (++key == last)
            key = first;
    }
    return -1;
}

static int64_t value_at(const struct scanner *s, int32_t key, int64_t text) { return key * s->text_count + text; }

static void note_other(struct scanner *s, int64_t text, int32_t start, int32_t key_end, int32_t end)
{
    int64_t place = s->other_count++;
    if (place < s->other_room) {
        s->others->texts[place] = text;
        s->others->starts[place] = start;
        s->others->key_ends[place] = key_end;
        s->others->ends[place] = end;
    }
}

/* Read a text; returns its kind. */
static enum kind read_text(struct scanner *s, struct reader *r, int64_t text)
{
    const struct wanted *wanted = s->wanted;
    const struct found *found = s->found;
    enum kind document = ABSENT;
    int32_t depth = 0;
    int32_t keys[3] = {-1, -1, -1}; /* at 1 and 2: the wanted key whose value is being read at this depth, or -1 */
    int32_t hints[3] = {0, 0, 0};
    int32_t other_start = 0, other_key_end = 0;
    bool escaped;
    skip_space(r);
    for (;;) {
        if (depth > 0 && s->containers[depth - 1] == OBJECT) {
            int32_t start, end, key = -1;
            if (!skip_key(r, &start, &end, &escaped))
                return ABSENT;
            if (depth == 1) {
                key = find(wanted, 0, wanted->inner[0], hints[1], r->data, start, end, escaped);
                if (key >= 0 && found->kinds[value_at(s, key, text)] != ABSENT)
                    found->repeated_key[text] = true;
                other_start = start - 1;
                other_key_end = end + 1;
            } else if (depth == 2 && keys[1] >= 0) {
                int32_t first = wanted->inner[keys[1]], last = wanted->inner[keys[1] + 1];
                key = find(wanted, first, last, hints[2], r->data, start, end, escaped);
            }
            if (depth <= 2) {
                keys[depth] = key;
                hints[depth] = key + 1;
            }
        }
        if (r->at == r->end)
            return ABSENT;

        int32_t start = r->at;
        enum kind kind;
        bool opens = r->data[start] == '{' || r->data[start] == '[';
        if (opens) {
            kind = r->data[start] == '{' ? OBJECT : ARRAY;
            escaped = false;
            r->at++;
            skip_space(r);
            if (next_is(r, kind == OBJECT ? '}' : ']')) {
                opens = false;
                r->at++;
            }
        } else {
            kind = skip_scalar(r, &escaped);
            if (kind == ABSENT)
                return ABSENT;
        }
        if (depth == 0)
            document = kind;
        if ((depth == 1 || depth == 2) && keys[depth] >= 0) {
            int64_t value = value_at(s, keys[depth], text);
            if (found->kinds[value] != ABSENT) {
                keys[depth] = -1; /* repeated: the first value stays */
            } else {
                found->kinds[value] = kind;
                found->escaped[value] = escaped;
                found->starts[value] = start + (kind == TEXT);
                found->ends[value] = r->at - (kind == TEXT);
            }
        }
        if (opens) {
            s->containers[depth++] = kind;
            if (depth <= 2)
                keys[depth] = -1;
            continue;
        }

        for (;;) { /* a value has ended, and perhaps the containers around it */
            if (depth == 0) {
                skip_space(r);
                return r->at == r->end ? document : ABSENT;
            }
            if (depth == 1 && keys[1] < 0 && document == OBJECT)
                note_other(s, text, other_start, other_key_end, r->at);
            skip_space(r);
            if (next_is(r, ',')) {
                r->at++;
                skip_space(r);
                break;
            }
            if (!next_is(r, s->containers[depth - 1] == OBJECT ? '}' : ']'))
                return ABSENT;
            r->at++;
            depth--;
            if ((depth == 1 || depth == 2) && keys[depth] >= 0)
                found->ends[value_at(s, keys[depth], text)] = r->at;
        }
    }
}

/* Look for members in the texts with the numbers `chosen`, of text_count; text n is offsets[n] to offsets[n + 1].
   `kinds` must be zero. Returns the number of other members: without room for all of them, call again. */
int64_t scan(const uint8_t *data, const int32_t *offsets, int64_t text_count, const int64_t *chosen,
             int64_t chosen_count, const struct wanted *wanted, const struct found *found, const struct others *others,
             int64_t other_room, uint8_t *containers)
{
    struct scanner scanner = {wanted, found, others, text_count, 0, other_room, containers};
    int32_t key_count = wanted->inner[wanted->inner[0]];
    for (int64_t place = 0; place < chosen_count; place++) {
        int64_t text = chosen[place], others_before = scanner.other_count;
        struct reader reader = {data, offsets[text], offsets[text + 1], false};
        found->repeated_key[text] = false;
        found->document[text] = read_text(&scanner, &reader, text);
        found->lone_surrogate[text] = reader.lone_surrogate;
        if (found->document[text] == ABSENT) { /* forget what was found before the text turned out not to be JSON */
            scanner.other_count = others_before;
            for (int32_t key = 0; key < key_count; key++)
                found->kinds[value_at(&scanner, key, text)] = ABSENT;
        }
    }
    return scanner.other_count;
}

/* Skip any value, of whose inside only the strings and the nesting are read. Returns its kind, or ABSENT. */
static enum kind skip_value(struct reader *r)
{
    bool escaped;
    enum kind kind = next_is(r, '{') ? OBJECT : next_is(r, '[') ? ARRAY : ABSENT;
    if (kind == ABSENT)
        return skip_scalar(r, &escaped);
    for (int32_t depth = 0; r->at < r->end;) {
        uint8_t byte = r->data[r->at];
        if (byte == '"') {
            if (!skip_string(r, &escaped))
                return ABSENT;
            continue;
        }
        r->at++;
        depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
        if (depth == 0)
            return kind;
    }
    return ABSENT;
}

/* Find the first member of an object with this name, and where its value is; what follows is not read. Returns the
   value's kind, or ABSENT. */
static enum kind read_first(struct reader *r, const uint8_t *name, int32_t size, int32_t *start, int32_t *end)
{
    skip_space(r);
    if (!next_is(r, '{'))
        return ABSENT;
    do {
        r->at++;
        skip_space(r);
        bool escaped;
        int32_t key, key_end;
        if (!skip_key(r, &key, &key_end, &escaped) || r->at == r->end)
            return ABSENT;
        *start = r->at;
        enum kind kind = skip_value(r);
        *end = r->at;
        skip_space(r);
        if (kind == ABSENT || (!next_is(r, ',') && !next_is(r, '}')))
            return ABSENT;
        if (is_name(r->data, key, key_end, escaped, name, size)) {
            *start += kind == TEXT;
            *end -= kind == TEXT;
            return kind;
        }
    } while (next_is(r, ','));
    return ABSENT;
}

/* In each text, look for a member of the top level. A text need not be JSON behind it. */
void first(const uint8_t *data, const int32_t *offsets, int64_t count, const uint8_t *name, int32_t size,
           uint8_t *kinds, int32_t *starts, int32_t *ends)
{
    for (int64_t text = 0; text < count; text++) {
        struct reader reader = {data, offsets[text], offsets[text + 1], false};
        kinds[text] = read_first(&reader, name, size, starts + text, ends + text);
    }
}

/* Write the chosen parts of data, without escapes, one after the other, and where each ends; returns the number of
   bytes. Where a part is not present, nothing is written. */
int64_t copy(const uint8_t *data, const int64_t *chosen, int64_t count, const uint8_t *present, const uint8_t *escaped,
             const int32_t *starts, const int32_t *ends, uint8_t *out, int32_t *out_ends)
{
    int32_t size = 0;
    for (int64_t place = 0; place < count; place++) {
        int64_t part = chosen[place];
        if (present[part]) {
            if (escaped[part]) {
                size += unescape(data, starts[part], ends[part], out + size);
            } else {
                memcpy(out + size, data + starts[part], ends[part] - starts[part]);
                size += ends[part] - starts[part];
            }
        }
        out_ends[place] = size;
    }
    return size;
}

/* The value of some digits, or -1 if there are others among them. */
static int32_t digits(const uint8_t *text, int32_t count)
{
    int32_t value = 0;
    for (int32_t place = 0; place < count; place++) {
        if (!is_digit(text[place]))
            return -1;
        value = value * 10 + (text[place] - '0');
    }
    return value;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar, from year 1; false if there is no such date. */
static bool days_to(int32_t year, int32_t month, int32_t day, int64_t *days)
{
    static const int32_t lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    static const int32_t before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    if (year < 1 || month < 1 || month > 12)
        return false;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day < 1 || day > lengths[month - 1] + (leap && month == 2))
        return false;
    int64_t past = year - 1;
    *days = past * 365 + past / 4 - past / 100 + past / 400 + before[month - 1] + (leap && month > 2) + day - 719163;
    return true;
}

/* Does a month begin at this minute, UTC? Only then there may have been a leap second (RFC 3339, 5.7). The minute is
   within a day of a date of the given month. */
static bool begins_month(int64_t minutes, int32_t year, int32_t month)
{
    int64_t this_month = 0, next_month = 0;
    days_to(year, month, 1, &this_month);
    days_to(year + month / 12, month % 12 + 1, 1, &next_month);
    return minutes == this_month * 1440 || minutes == next_month * 1440;
}

/* Microseconds since 1970, UTC, of 2026-04-12T00:00:00.5Z or with +02:00; digits beyond microseconds are cut off.
   The T and the Z may be in lower case, and the T a space. A leap second is the first instant of the next minute. False
   for any other text. */
static bool read_time(const uint8_t *text, int32_t size, int64_t *micros)
{
    if (size < 20 || text[4] != '-' || text[7] != '-' || text[13] != ':' || text[16] != ':')
        return false;
    if (text[10] != 'T' && text[10] != 't' && text[10] != ' ')
        return false;
    int32_t year = digits(text, 4), month = digits(text + 5, 2), day = digits(text + 8, 2);
    int32_t hour = digits(text + 11, 2), minute = digits(text + 14, 2), second = digits(text + 17, 2);
    int64_t days;
    if (!days_to(year, month, day, &days))
        return false;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
        return false;
    int32_t at = 19, fraction = 0, scale = 100000;
    if (text[at] == '.') {
        for (at++; at < size && is_digit(text[at]); at++, scale /= 10)
            fraction += (text[at] - '0') * scale;
        if (at == 20)
            return false;
    }
    int64_t offset = 0; /* minutes */
    if (size - at == 6 && (text[at] == '+' || text[at] == '-') && text[at + 3] == ':') {
        int32_t hours = digits(text + at + 1, 2), minutes = digits(text + at + 4, 2);
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59)
            return false;
        offset = (text[at] == '+' ? 1 : -1) * (hours * 60 + minutes);
    } else if (size - at != 1 || (text[at] != 'Z' && text[at] != 'z')) {
        return false;
    }
    int64_t minutes = days * 1440 + hour * 60 + minute - offset;
    *micros = (minutes * 60 + second) * 1000000 + fraction;
    return second < 60 || begins_month(minutes + 1, year, month);
}

/* The value of a JSON number if it is an integer of at most fifteen digits, however it is written: 5, 5.0, 50e-1.
   False for any other number, and for one of more than 24 bytes. */
static bool read_integer(const uint8_t *text, int32_t size, int64_t *number)
{
    static const int64_t most = 999999999999999;
    bool negative = text[0] == '-', point = false;
    int64_t value = 0;
    int32_t power = 0, at = negative; /* the value is to be multiplied by ten to the power */
    if (size > 24)
        return false;
    for (; at < size && text[at] != 'e' && text[at] != 'E'; at++) {
        if (text[at] == '.') {
            point = true;
            continue;
        }
        if (value > most)
            return false;
        value = value * 10 + (text[at] - '0');
        power -= point;
    }
    if (at < size) {
        at++;
        bool below = text[at] == '-';
        int32_t exponent = 0;
        for (at += text[at] == '-' || text[at] == '+'; at < size; at++)
            if (exponent < 1000)
                exponent = exponent * 10 + (text[at] - '0');
        power += below ? -exponent : exponent;
    }
    for (; power < 0 && value != 0; power++, value /= 10)
        if (value % 10 != 0)
            return false;
    for (; power > 0 && value != 0; power--, value *= 10)
        if (value > most)
            return false;
    *number = negative ? -value : value;
    return value <= most;
}

/* Read values as times: texts by read_time(), and numbers by read_integer() as milliseconds. `known` says which were
   read; the others are 0. */
void times(const uint8_t *data, int64_t count, const uint8_t *kinds, const int32_t *starts, const int32_t *ends,
           int64_t *micros, uint8_t *known)
{
    for (int64_t place = 0; place < count; place++) {
        const uint8_t *text = data + starts[place];
        int32_t size = ends[place] - starts[place];
        micros[place] = 0;
        known[place] = false;
        if (kinds[place] == TEXT) {
            known[place] = read_time(text, size, micros + place);
        } else if (kinds[place] == INTEGER || kinds[place] == NUMBER) {
            known[place] = read_integer(text, size, micros + place);
            micros[place] *= 1000;
        }
    }
}
