"""TIFFs, of which Pillow drops channels and misreads values without saying so."""

from PIL.TiffImagePlugin import TiffImageFile

# Tags of TIFF, and some of their values.
BITS, COMPRESSION, PHOTOMETRIC = 258, 259, 262
SAMPLES_PER_PIXEL, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT = 277, 284, 338, 339
UNCOMPRESSED, SEPARATE, SIGNED = 1, 2, 2
WHITE_IS_0, BLACK_IS_0, RGB, CMYK = 0, 1, 2, 5
UNSPECIFIED, ALPHA = (0,), (2,)

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_CHANNELS = 4
REMEDY = "save the images as an array in an .npz or .npy"

# Keys of `Image.info` for facts that only `Tiff` knows; files can store texts in `Image.info`, too.
EXTRA = "ddpm extra"            # SECOND or FOURTH for a last channel without a declared meaning; LOST; or None
INVERTED = "ddpm inverted"      # whether 0 is white in values of 16 bits
UNSIGNED = "ddpm unsigned"      # whether the values of mode `I` have no sign

SECOND, FOURTH = "a second channel", "a fourth channel"
LOST = "a further channel"      # which Pillow cannot read


class Tiff(TiffImageFile):
    """A TIFF of which Pillow reads what is stored.

    A channel without a declared meaning, which Pillow drops, is read in the place of alpha. The `info` of the image
    says that it is none, and what remains to be done with the values (see `ddpm.data.pixels.decode.stored_values`).
    """

    def _setup(self) -> None:
        """Prepare a page for decoding; Pillow calls this method whenever it turns to one.

        Raises:
            ValueError: if the values or channels cannot be read; the message is the reason and the remedy.
        """
        tags = self.tag_v2
        samples, bits = tags.get(SAMPLES_PER_PIXEL, 1), max(tags.get(BITS, (1,)))
        photometric, signed = tags.get(PHOTOMETRIC, WHITE_IS_0), SIGNED in tags.get(SAMPLE_FORMAT, ())
        if samples > MAX_CHANNELS and photometric != CMYK:
            raise ValueError(f"a TIFF with {samples} channels, of which Pillow reads at most {MAX_CHANNELS}; {REMEDY}")
        separate = samples > 1 and tags.get(PLANES) == SEPARATE
        extra = {BLACK_IS_0: SECOND, RGB: FOURTH}.get(photometric)
        if separate or tags.get(EXTRA_SAMPLES) != UNSPECIFIED:
            extra = None
        elif extra:
            tags[EXTRA_SAMPLES] = ALPHA
        super()._setup()
        misread = {
            f"separate planes of {bits} bits": separate and bits > 8 and tags.get(COMPRESSION, 1) == UNCOMPRESSED,
            "gray and alpha in separate planes": separate and self.mode in ("LA", "La"),
            "signed values of 8 bits": signed and bits == 8,
            "floats of which 0 is white": self.mode == "F" and photometric == WHITE_IS_0,
        }
        for kind, found in misread.items():
            if found:
                raise ValueError(f"a TIFF with {kind}, which Pillow does not read correctly; {REMEDY}")
        if self.use_load_libtiff and self.mode in ("I", "F"):       # decompressed values are in the machine's order
            args = self.tile[0].args
            assert isinstance(args, tuple)
            self.tile = [self.tile[0]._replace(args=(args[0].replace("B", "N"), *args[1:]))]
        self.info[EXTRA] = extra or (LOST if samples > len(self.getbands()) else None)
        self.info[INVERTED] = self.mode == "I;16" and photometric == WHITE_IS_0
        self.info[UNSIGNED] = self.mode == "I" and bits == 32 and not signed
